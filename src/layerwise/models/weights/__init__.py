"""Weights in memory: number formats, devices, quantization, offloading."""
