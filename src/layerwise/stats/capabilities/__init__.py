"""Which layers a capability needs."""
