"""Files of models: weights, adapters, GGUF headers, written folders, the cache folder."""
