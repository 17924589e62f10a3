"""The charts of all figures, each drawn once: heat maps and strips, lines and ranges.

An analysis turns its table into what a chart takes. No chart knows an analysis.
"""
