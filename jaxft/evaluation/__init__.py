"""Measuring a model: metrics of a set, of its slices, and beside a baseline."""
