"""The measurements of `python -m jaxft.bench`, in child processes that take turns."""
