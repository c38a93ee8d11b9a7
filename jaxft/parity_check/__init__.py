"""Comparing a model with transformers in PyTorch on the same model directory."""
