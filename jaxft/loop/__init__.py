"""The run: wiring, the step, the loop around it, evaluation, checkpoints, and what the user sees."""
