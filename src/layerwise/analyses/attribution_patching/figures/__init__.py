"""The pictures of this analysis, each from its tables alone."""
