"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it in a sentence also while it is imported and built."""
    try:
        from .app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("layerwise: interrupted.\n")
        sys.exit(130)
