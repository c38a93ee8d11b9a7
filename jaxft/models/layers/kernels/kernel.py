"""What an attention kernel is given and what it answers.

Letters: b batch, t query length, s key length, h head width.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxft.models.layers.tokens import Tokens


@dataclass(frozen=True)
class MaskSpec:
    """Which keys a query may attend to, of those in its own segment. Padding is segment 0 and attends to padding, so
    that every query has at least one key."""

    causal: bool = False  # none that comes later
    window: int | None = None  # sliding window: only keys fewer than this many positions away
    # Keys before those of the row, of every text. They have the positions from 0 on, before those of the texts.
    prefix: int = 0

    def dense(self, queries: Tokens, keys: Tokens) -> jax.Array:
        """Bool (b, 1, t, prefix + s)."""
        mask = queries.segments[:, :, None] == keys.segments[:, None, :]
        distance = queries.indices[:, :, None] - keys.indices[:, None, :]
        if self.causal:
            mask = mask & (distance >= 0)
        if self.window is not None:
            mask = mask & (jnp.abs(distance) < self.window)
        if self.prefix:
            mask = jnp.concatenate([self._prefix(queries), mask], -1)
        return mask[:, None]

    def _prefix(self, queries: Tokens) -> jax.Array:
        """Bool (b, t, prefix)."""
        distance = queries.positions[:, :, None] - jnp.arange(self.prefix)
        return distance < self.window if self.window is not None else jnp.full_like(distance, True, bool)


@dataclass(frozen=True)
class SoftmaxSpec:
    """How products of queries and keys become attention weights."""

    scale: float
    softcap: float | None = None  # softcap * tanh(scores / softcap) (Gemma 2, section 2)
    dropout: float = 0.0
    learned_bias: bool = False  # whether the bias that is added to the scores has a gradient


@dataclass(frozen=True)
class AttentionCall:
    """What decides which kernels can compute a call; all of it is known when the call is traced."""

    platform: str  # "cpu", "gpu" or "tpu"
    queries: int  # per row
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    mask: MaskSpec
    softmax: SoftmaxSpec
    bias: bool  # whether a bias is added to the scores
    sinks: bool


class Kernel(Protocol):
    """One way to compute attention."""

    name: str

    def refuses(self, call: AttentionCall) -> str | None:
        """Why this kernel cannot compute the call; None if it can."""

    def prepare(self, mask: MaskSpec, queries: Tokens, keys: Tokens) -> Any:
        """What `__call__` takes as `mask`, as a pytree: made once for all layers that share it."""

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        mask: Any,
        softmax: SoftmaxSpec,
        key: jax.Array | None,
        bias: jax.Array | None = None,
        sinks: jax.Array | None = None,
    ) -> jax.Array:
        """q (b, t, heads, h), k and v (b, s, kv_heads, h) -> (b, t, heads, h), in the dtype of v.

        `key` draws dropout; None: none. `bias` float32 (1 or b, kv_heads, rows, s) is added to the scores; its rows are
        those of the queries, heads / kv_heads * t, or one per query head, the same for all t. `sinks` (heads,) are
        scores of one more key for each head, whose value is 0.
        """
