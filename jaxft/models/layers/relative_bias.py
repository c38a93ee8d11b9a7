"""Attention biases learned from the distance between query and key (Raffel et al. 2020, section 2.1).

Within a text, the distance of two tokens is that of their columns in the row: packing and padding do not change it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.models.layers.basic import param
from jaxft.models.layers.context import Context
from jaxft.models.layers.precision import upcast


class RelativeBias(Protocol):
    """What a model learns of distances: frozen and hashable."""

    @property
    def shared(self) -> bool:
        """Whether all layers share one module."""
        ...

    def build(self, width: int) -> Callable:
        """A module: length of a row -> what `attn_bias` reads (Context.rel_bias in context.py)."""


@dataclass(frozen=True)
class T5Buckets:
    """A bias per head for each of `count` buckets of distances.

    Half of the buckets hold one distance each, the rest logarithmically growing ranges, the last all from `longest` on.
    Unless causal, keys before and after the query have half of the buckets each.
    """

    heads: int
    count: int
    longest: int
    causal: bool
    shared: bool = True

    def build(self, width: int) -> "T5BucketsLayer":
        return T5BucketsLayer(self)

    def numbers(self, ahead: np.ndarray) -> np.ndarray:
        """The bucket of each distance; `ahead` is the key's column minus the query's."""
        count = self.count if self.causal else self.count // 2
        behind = 0 if self.causal else count * (ahead > 0)
        far = np.maximum(-ahead, 0) if self.causal else np.abs(ahead)
        single = count // 2
        # In float32 as in PyTorch: at powers of 2 the last bit of the logarithm decides the bucket.
        logs = np.log(np.float32(np.maximum(far, 1)) / np.float32(single)) / np.float32(math.log(self.longest / single))
        wide = single + (logs * np.float32(count - single)).astype(np.int64)
        return behind + np.where(far < single, far, np.minimum(wide, count - 1))


class T5BucketsLayer(nnx.Module):
    def __init__(self, part: T5Buckets):
        self.part = part
        self.scores = param((part.count, part.heads), (None, "heads"), "other")

    def __call__(self, length: int) -> jax.Array:
        """Float32 (1, heads, length, length): the bias of each query and key."""
        numbers = self.part.numbers(np.arange(1 - length, length))
        of_distance = upcast(self.scores[...])[numbers].T
        return toeplitz(of_distance, length)[None]


def toeplitz(of_distance: jax.Array, length: int) -> jax.Array:
    """(n, t, s) with entry s - t + length - 1 of each row of (n, 2 length - 1).

    By tiling and slicing, whose gradients are sums; the gradient of a lookup would be a scatter.
    """
    n, width = of_distance.shape
    rows = jnp.tile(jnp.pad(of_distance, ((0, 0), (0, 1))), (1, length))  # each row begins one entry earlier
    return rows[:, : length * width].reshape(n, length, width)[:, :, length - 1 :]


def rel_shift(x_bhtv: jax.Array, context: Context) -> jax.Array:
    """(b, h, t, s) of products with distances (b, h, t, 2s - 1), from the earliest key to the latest.

    The s entries of a query in column i begin at s - 1 - i (Dai et al. 2019, appendix B).
    """
    b, h, t, width = x_bhtv.shape
    s = (width + 1) // 2
    if not context.is_square:
        places = s - 1 - context.queries.indices[:, None, :, None] + jnp.arange(s)
        return jnp.take_along_axis(x_bhtv, jnp.broadcast_to(places, (b, h, t, s)), 3)
    return rel_shift_square(x_bhtv)


def rel_shift_square(x_bhsv: jax.Array) -> jax.Array:
    """`rel_shift` of queries in all columns, by slicing: each row begins one entry earlier than the last."""
    b, h, s, width = x_bhsv.shape
    flat = x_bhsv.reshape(b, h, s * width)[..., s - 1 : s - 1 + s * (width - 1)]
    return flat.reshape(b, h, s, width - 1)[..., :s]
