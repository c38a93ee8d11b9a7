"""Means that add up exactly: (total, count) pairs, divided only when they are printed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mean(NamedTuple):
    """A mean kept as its two sums, so that pieces of any size add up to the exact whole; divided only when printed."""

    total: jax.Array | float
    count: jax.Array | float

    @classmethod
    def of(cls, values: jax.Array, weights: jax.Array) -> "Mean":
        """The weighted mean of `values`; where a weight is 0 the value does not matter, be it NaN."""
        values = jnp.where(weights > 0, values, 0.0)
        return cls(jnp.sum(values * weights), jnp.sum(weights))

    def value(self) -> float:
        """The mean as a Python float; NaN if nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else float("nan")


def objective(sums: dict[str, Mean]) -> Mean:
    """What training minimises: `weighted_loss` where a task has one, else `loss`.

    `loss` is comparable between runs; the weighted one has what a run's settings add: weights of classes, smoothed
    labels, the focal factor, further widths of a vector, the balance of experts.
    """
    return sums.get("weighted_loss", sums["loss"])


def add(a: dict[str, Mean], b: dict[str, Mean]) -> dict[str, Mean]:
    """Sums of two dicts of pairs."""
    return jax.tree.map(lambda x, y: x + y, a, b)
