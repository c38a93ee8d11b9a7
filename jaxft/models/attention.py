"""Attention by segments: a token sees the tokens of its own text, as far as causality and window allow.

Letters: b batch, t query length, s key length, k key/value heads, g queries per key head, h head width.
"""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.parts import Linear, Rotary, dropout, rotate, subkey
from jaxft.parallel.mesh import shard

MASKED = -1e30  # finite, so that the softmax of a row can never be NaN, in bf16 as well


@dataclass(frozen=True)
class Attention:
    """Multi-head or grouped-query self-attention (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023)."""

    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    rotary: Rotary | None = None
    bias: frozenset[str] = frozenset("qkvo")  # which of the four projections have a bias
    dropout: float = 0.0  # on the attention weights

    def build(self, width):
        return AttentionLayer(self, width)


@dataclass
class Context:
    """What all layers of one call share: masks and rotary tables, each made once, outside the scan over layers."""

    segments: jax.Array
    positions: jax.Array
    masks: dict[bool, jax.Array] = field(default_factory=dict)
    tables: dict[Rotary, tuple[jax.Array, jax.Array]] = field(default_factory=dict)

    def prepare(self, part: Attention):
        if part.causal not in self.masks:
            self.masks[part.causal] = visible(self.segments, part.causal)
        if part.rotary is not None and part.rotary not in self.tables:
            self.tables[part.rotary] = part.rotary.table(self.positions)


def visible(segments_bt: jax.Array, causal: bool) -> jax.Array:
    """Bool (batch, 1, 1, t, s): may query t see key s?

    Padding is segment 0 and sees padding, so every query sees at least itself and no softmax runs over nothing.
    """
    same = segments_bt[:, :, None] == segments_bt[:, None, :]
    if causal:
        length = segments_bt.shape[1]
        same = same & jnp.tril(jnp.ones((length, length), bool))
    return same[:, None, None]


class AttentionLayer(nnx.Module):
    def __init__(self, part: Attention, width: int):
        self.part = part
        inner, inner_kv = part.heads * part.head_dim, part.kv_heads * part.head_dim
        self.q = Linear(width, inner, ("embed", "heads"), "q" in part.bias)
        self.k = Linear(width, inner_kv, ("embed", "heads"), "k" in part.bias)
        self.v = Linear(width, inner_kv, ("embed", "heads"), "v" in part.bias)
        self.o = Linear(inner, width, ("heads", "embed"), "o" in part.bias)

    def __call__(self, x_btd: jax.Array, context: Context, key: jax.Array | None) -> jax.Array:
        part, (b, t, _) = self.part, x_btd.shape
        q = self.q(x_btd).reshape(b, t, part.heads, part.head_dim)
        k = self.k(x_btd).reshape(b, t, part.kv_heads, part.head_dim)
        v = self.v(x_btd).reshape(b, t, part.kv_heads, part.head_dim)
        if part.rotary is not None:
            table = context.tables[part.rotary]
            q, k = rotate(q, table), rotate(k, table)
        q, k, v = (shard(y, "batch", None, "heads", None) for y in (q, k, v))
        mixed = attend(q, k, v, context.masks[part.causal], part.dropout, subkey(key, 0))
        return self.o(mixed.reshape(b, t, part.heads * part.head_dim))


def attend(q, k, v, mask, rate: float, key: jax.Array | None) -> jax.Array:
    """Softmax attention with float32 scores; q (b, t, heads, h), k and v (b, s, kv_heads, h) -> (b, t, heads, h)."""
    b, t, heads, h = q.shape
    q = q.reshape(b, t, k.shape[2], heads // k.shape[2], h)
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=jnp.float32) / math.sqrt(h)
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), -1).astype(v.dtype)
    mixed = jnp.einsum("bkgts,bskh->btkgh", dropout(weights, rate, key), v)
    return mixed.reshape(b, t, heads, h)
