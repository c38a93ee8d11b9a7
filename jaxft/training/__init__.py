"""Training: setup, the step, the loop around it, checkpoints, resume and export."""
