"""Smallest number of right answers that a share must stand on, to be named in a sentence."""

# Right answers above the floor. With 15, a gap of two shares is off by more than 20 % of the score
# in 10 % of data sets, and one of 30 % that is significant looks like 38 %. With 8 it is off in
# 22 %, and looks like 47 % (docs/evidence/scoring.md).
LEAST_TO_LOSE = 15
