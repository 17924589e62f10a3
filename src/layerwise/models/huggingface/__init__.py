"""What Hugging Face makes of a folder: model, tokenizer, generation settings."""
