"""The charts of all figures, each drawn once: heat maps, lines, accuracies, ranges, scatter.

An analysis turns its table into what a chart takes. No chart knows an analysis.
"""
