"""The wired encoder-decoder: where its mechanisms are, its weights, and what must be found in it.

Its language is that of the wired decoder.
"""
