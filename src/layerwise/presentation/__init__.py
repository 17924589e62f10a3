"""Style, wording, names of layers and charts, which every page and figure is made with.

No module here knows an analysis.
"""
