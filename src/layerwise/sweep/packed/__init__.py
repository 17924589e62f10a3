"""One transformer block on packed tokens: layouts, attention, and the ways to run a block."""
