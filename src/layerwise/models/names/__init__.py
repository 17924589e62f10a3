"""From a model's name to a local folder: bundled models, the hub, GGUF files, adapters."""
