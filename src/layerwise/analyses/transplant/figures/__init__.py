"""Pictures of a transplant, from its own tables alone."""

from .heads import moved_by_head as moved_by_head
from .moved import moved_by_layer as moved_by_layer
