"""What a run shows: metrics files, figures, curves, the page, the model card."""
