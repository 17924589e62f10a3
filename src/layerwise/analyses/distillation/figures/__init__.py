"""The pictures of this analysis, each from its tables alone."""

from .curve import training_curve as training_curve
