"""All main analyses of one model in one run."""
