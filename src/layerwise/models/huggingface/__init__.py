"""Hugging Face's model of a folder: configuration, weights, tokenizer, alterations."""
