"""Weights in memory and on disk: number formats, devices, quantization, offloading."""
