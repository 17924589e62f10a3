"""The engine: walks through a decoder with a trunk and its branches, and their outcomes."""
