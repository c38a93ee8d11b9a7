"""How a trained model is asked: the settings that its directory carries, and what its inputs may be."""
