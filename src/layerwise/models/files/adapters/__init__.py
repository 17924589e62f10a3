"""Adapter folders such as LoRA's, and their merge into a base model."""
