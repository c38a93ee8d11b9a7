"""What `jaxft new` sees in a data file, and the configuration that it writes for it."""
