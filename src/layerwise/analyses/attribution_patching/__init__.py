"""Gradient estimates of activation patches, with true patches of a sample."""
