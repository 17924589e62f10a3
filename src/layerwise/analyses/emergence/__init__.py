"""At what depth capabilities emerge, by every method."""

# Public names of the package by the module that has them.
PUBLIC = {"api": ("emergence",), "result": ("EmergenceResult",)}
