"""``python -m layerwise.cli``."""

from . import main

main()
