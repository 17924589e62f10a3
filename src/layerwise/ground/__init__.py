"""What every part of the package stands on: arguments, names of layers, the process itself."""
