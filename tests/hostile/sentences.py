"""What an answer to a mistake looks like."""

from __future__ import annotations


def is_sentence(text: str) -> bool:
    """Whether a message is one printable line that ends, and is not endless."""
    return text.isprintable() and text.endswith((".", "?", ")")) and len(text) < 2000
