"""A student trained to say what a teacher says, and what it can do before and after."""
