"""One file per Hugging Face `model_type`: its architecture, its weight names, its heads."""
