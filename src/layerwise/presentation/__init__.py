"""The kit of every picture and sentence: style, grid, wording, names of layers.

It knows no analysis.
"""
