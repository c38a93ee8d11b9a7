"""Evaluating a model: metrics of a set, of its slices, and of a baseline."""
