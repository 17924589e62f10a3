"""The libraries underneath: classes of TransformerLens, notes, and untrusted tokenizers."""
