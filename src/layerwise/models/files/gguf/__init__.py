"""GGUF files: their headers, conversion and checks."""
