"""Common ground of all parts of the package: arguments, names of layers, the process itself."""
