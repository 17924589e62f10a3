"""Certainty of the logit lens after each layer: an analysis that is no part of layerwise.

A plugin imports what it is built on, and its own names, as any package does.
"""

from .api import certainty as certainty
from .result import CertaintyResult as CertaintyResult

# Functions that are commands of ``layerwise``, by the command's name.
COMMANDS = {"certainty": "api:certainty"}
