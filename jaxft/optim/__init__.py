"""Optimizers (Optax's own), what surrounds each of them, and learning-rate schedules."""
