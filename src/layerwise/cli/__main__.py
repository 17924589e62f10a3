"""``python -m layerwise.cli``."""

from .app import main

main()
