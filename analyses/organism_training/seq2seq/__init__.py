"""The encoder-decoder organism: what is planted in it, how it begins, is trained and is tried.

Its language, texts and course of training are those of the decoder.
"""
