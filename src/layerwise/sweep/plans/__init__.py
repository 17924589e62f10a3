"""Plans of sweeps: packed tokens, branches and walks, and what they cost."""
