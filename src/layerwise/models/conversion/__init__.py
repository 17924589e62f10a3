"""From an original to a hooked model by one of two backends, compared with its original."""
