"""At what depth capabilities emerge, by every method."""
