"""The command line: flags, exit codes, and what a process does first and last."""
