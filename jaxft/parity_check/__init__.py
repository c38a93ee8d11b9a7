"""Proving that a model computes what transformers computes with the same directory in PyTorch."""
