"""The machine that runs the process: memory, signals, files, and JSON without NaN."""
