"""The reference by plain hooks, and what is compared with it."""
