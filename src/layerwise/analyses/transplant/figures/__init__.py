"""Pictures of a transplant, from its own tables alone."""

from .moved import moved_by_layer as moved_by_layer
