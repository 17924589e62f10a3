"""Files of models: folders in hub format, weights, the cache folder."""
