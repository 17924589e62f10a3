"""Basics that every part of the package may import: checks of arguments, names, processes.

No module here imports another part of the package, except ``errors``.
"""
