"""What `python -m jaxft.bench` measures, in child processes that take turns."""
