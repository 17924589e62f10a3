"""One's own prompts, looked at from the inside: illustrations, without statistics or claims."""
