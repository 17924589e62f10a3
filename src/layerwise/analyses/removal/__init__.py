"""Orders in which layers can be removed."""
