"""Several runs in one command: their configurations, their order, and their results."""
