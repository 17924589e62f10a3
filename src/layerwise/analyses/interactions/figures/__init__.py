"""Pictures of interactions, from their own tables alone."""

from .shapley import shapley_values as shapley_values
from .triangle import interaction_triangles as interaction_triangles
