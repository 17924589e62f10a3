"""Saved runs compared: role maps, depths, tests of differences."""
