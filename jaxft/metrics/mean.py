"""Means that add up exactly: (total, count) pairs that are divided at the end."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mean(NamedTuple):
    """A mean as its two sums, so that micro-batches and devices of any size add up exactly. Both are numbers."""

    total: jax.Array | float
    count: jax.Array | float  # type: ignore[assignment]  # hides the method `tuple.count`, which nobody uses

    @classmethod
    def of(cls, values: jax.Array, weights: jax.Array) -> "Mean":
        """The weighted mean of `values`, of the same shape as `weights`. Values with weight 0 may be NaN."""
        values = jnp.where(weights > 0, values, 0.0)
        return cls(jnp.sum(values * weights), jnp.sum(weights))

    def value(self) -> float:
        """The mean; NaN if the count is 0."""
        count = float(self.count)
        return float(self.total) / count if count else float("nan")


def objective(sums: dict[str, Mean]) -> Mean:
    """What training minimises: `weighted_loss` if the task has one, else `loss`.

    `loss` is comparable between runs. The weighted one also has what settings of a run add: class weights, label
    smoothing, the focal factor, the widths of Matryoshka vectors, the load balancing of experts.
    """
    return sums.get("weighted_loss", sums["loss"])


def add(a: dict[str, Mean], b: dict[str, Mean]) -> dict[str, Mean]:
    """The sums of two dicts with the same keys."""
    return jax.tree.map(lambda x, y: x + y, a, b)
