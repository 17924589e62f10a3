"""How many right answers a share of them must stand on, to be named in a sentence."""

# Right answers above the floor. With 15, the gap of two shares is within 20 % of the score in nine
# of ten data sets, and gaps that are significant look a fifth too large. With 8 it is four of
# five, and they look half too large (docs/statistics.md, scoring steps).
LEAST_TO_LOSE = 15
