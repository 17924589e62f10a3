"""Parts of a model changed in every way, and what answers cost."""
