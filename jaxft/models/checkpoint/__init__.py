"""Reading and writing the files of models: weights, configurations, tokenizers."""
