"""Attention by segments: a token sees the tokens of its own text, as far as causality and window allow.

Letters: b batch, t query length, s key length, d width, k key/value heads, g queries per key head, h head width.
"""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.layers.basic import Linear, fold_key, param, read, remat
from jaxft.models.layers.kernels.tiled import Scores, attend
from jaxft.models.layers.relative_bias import RelativeBias
from jaxft.models.layers.rotary import Rotary, rotate
from jaxft.models.spec import Part
from jaxft.parallel.mesh import shard


@dataclass(frozen=True)
class QKNorm:
    """A norm of queries and of keys before they meet: over each head's width, or over all heads together."""

    norm: Part
    over: str = "head"  # or "all"
    shared: bool = True  # one scale for all heads that are normed one by one; or each has its own


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
    scale: float | None = None  # of the scores; None: 1 / sqrt(head_dim)
    window: int | None = None  # a token sees those less than so many places away
    softcap: float | None = None  # scores bend towards it: cap * tanh(scores / cap) (Gemma 2, section 2)
    clip: float | None = None  # queries, keys and values are cut off at it
    qk_norm: QKNorm | None = None
    alibi_slopes: tuple[float, ...] | None = None  # a head's scores fall by so much for each place (Press et al. 2022)
    distances: RelativeBias | None = None  # what is learned of them; a head then has keys of its own
    sinks: bool = False  # a learned score for each head that takes weight and gives nothing (Xiao et al. 2024)

    def build(self, width):
        return AttentionLayer(self, width)

    @property
    def mask_spec(self) -> tuple[bool, int | None] | str:
        """What decides which tokens a token sees."""
        return self.causal, self.window

    def attention_mask(self, context: "Context") -> jax.Array:
        """Bool (batch, 1, t, s): may a query see a key?"""
        return attention_mask(context.segments, context.segments, self.causal, self.window)

    @property
    def scores(self) -> Scores:
        scale = self.scale or 1.0 / math.sqrt(self.head_dim)
        return Scores(scale, self.softcap, self.dropout, learned=self.distances is not None)


@dataclass(frozen=True)
class CrossAttention(Attention):
    """Attention of a decoder's text to the encoder's result for the same text (Vaswani et al. 2017, section 3.2.3)."""

    causal: bool = False

    def build(self, width):
        return CrossAttentionLayer(self, width)

    @property
    def mask_spec(self):
        return "memory"

    def attention_mask(self, context):
        return attention_mask(context.segments, context.memory_segments, False)


@dataclass
class Context:
    """What all layers of one call share: masks, rotary tables and scores of distances, each made once, outside the scan
    over layers; and to a decoder the encoder's result."""

    segments: jax.Array
    positions: jax.Array
    memory: jax.Array | None = None  # (batch, s, width)
    memory_segments: jax.Array | None = None
    distances: jax.Array | None = None  # of Buckets float32 (1, heads, length, length)
    types: jax.Array | None = None  # of the texts, where the batch has them
    routes: list[jax.Array] | None = None  # of experts, if they are to be counted (experts.py)
    masks: dict[tuple[bool, int | None] | str, jax.Array] = field(default_factory=dict)
    tables: dict[Rotary, tuple[jax.Array, jax.Array]] = field(default_factory=dict)

    def prepare(self, part: Attention):
        if part.mask_spec not in self.masks:
            self.masks[part.mask_spec] = part.attention_mask(self)
        if part.rotary is not None and part.rotary not in self.tables:
            self.tables[part.rotary] = part.rotary.table(self.positions)

    def mask(self, part: Attention, at_bk: jax.Array | None) -> jax.Array:
        """Bool (batch, 1, t or slots, s): what the queries may see, those at `at` or all."""
        mask = self.masks[part.mask_spec]
        return mask if at_bk is None else jnp.take_along_axis(mask, at_bk[:, None, :, None], 2)

    def slope(self, part: Attention) -> jax.Array:
        """Float32 (batch, k, g, s): what every key adds to the scores of a head.

        Less for each place between query and key is, but for what all keys of a query have in common, more for each
        place of the key.
        """
        alibi_slopes = jnp.array(part.alibi_slopes, float).reshape(1, part.kv_heads, -1, 1)
        return alibi_slopes * self.positions[:, None, None, :].astype(float)

    def table(self, part: Attention, at_bk: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Rotary cosine and sine of the positions, those at `at` or all."""
        whole = self.tables[part.rotary]
        return whole if at_bk is None else tuple(jnp.take_along_axis(x, at_bk[..., None, None], 1) for x in whole)


def attention_mask(queries_bt: jax.Array, keys_bs: jax.Array, causal: bool, window: int | None = None) -> jax.Array:
    """Bool (batch, 1, t, s), from the segments of queries and keys: may query t see key s?

    Padding is segment 0 and sees padding: in a text's own row every query sees at least itself.
    """
    same = queries_bt[:, :, None] == keys_bs[:, None, :]
    back = jnp.arange(queries_bt.shape[1])[:, None] - jnp.arange(keys_bs.shape[1])  # how far the key lies behind
    if causal:
        same = same & (back >= 0)
    if window is not None:
        same = same & (jnp.abs(back) < window)
    return same[:, None]


class AttentionLayer(nnx.Module):
    def __init__(self, part: Attention, width: int):
        self.part = part
        inner, inner_kv = part.heads * part.head_dim, part.kv_heads * part.head_dim
        self.q = Linear(width, inner, ("embed", "heads"), "q" in part.bias)
        self.k = Linear(width, inner_kv, ("embed", "heads"), "k" in part.bias)
        self.v = Linear(width, inner_kv, ("embed", "heads"), "v" in part.bias)
        self.o = Linear(inner, width, ("heads", "embed"), "o" in part.bias)
        self.q_norm = self._norm(part.heads)
        self.k_norm = self._norm(part.kv_heads)
        own = part.distances is not None and not part.distances.shared
        self.distances = part.distances.build(width) if own else nnx.data(None)
        self.sinks = param((part.heads,), ("heads",), "other", "zeros") if part.sinks else nnx.data(None)

    def __call__(self, x_btd: jax.Array, context: Context, key: jax.Array | None, at_bk=None) -> jax.Array:
        """(batch, t, width); with `at` (batch, slots) the results at these positions only, (batch, slots, width)."""
        return self.mixed(read(x_btd, at_bk), x_btd, context, key, at_bk)

    def mixed(self, y_btd, x_bsd, context: Context, key, at_bk):
        """What queries from y, those at `at` or all, gather from x."""
        part = self.part
        q = self._heads(self.q(y_btd), part.heads, self.q_norm)
        k = self._heads(self.k(x_bsd), part.kv_heads, self.k_norm)
        v = self._heads(self.v(x_bsd), part.kv_heads, None)
        if part.rotary is not None:
            q, k = rotate(q, context.table(part, at_bk), part.rotary), rotate(k, context.table(part, None), part.rotary)
        q, k, v = (shard(y, "batch", None, "heads", None) for y in (q, k, v))
        attn_bias = self.attn_bias(q, k, context, key, at_bk)
        sinks = None if self.sinks is None else self.sinks[...]
        mixed = attend(q, k, v, context.mask(part, at_bk), part.scores, fold_key(key, 0), attn_bias, sinks)
        return self.o(mixed.reshape(*y_btd.shape[:2], part.heads * part.head_dim))

    def attn_bias(self, q_bthd, k_bshd, context: Context, key, at_bk) -> jax.Array | None:
        """What is added to the scores: float32 (1 or batch, k, t or slots or g, s), or None for nothing."""
        if self.part.alibi_slopes is not None:
            return context.slope(self.part)
        if self.part.distances is None:
            return None
        attn_bias = context.distances if self.distances is None else self.distances(k_bshd.shape[1])
        return attn_bias if at_bk is None else attn_bias[0][:, at_bk].swapaxes(0, 1)

    def _norm(self, heads: int):
        """Of queries or keys of so many heads."""
        part, norm = self.part, self.part.qk_norm
        if norm is None:
            return nnx.data(None)
        if norm.over == "all":
            return norm.norm.build(heads * part.head_dim)
        return norm.norm.build(part.head_dim) if norm.shared else norm.norm.build(part.head_dim, heads)

    def _heads(self, y_btd, heads: int, norm):
        """(batch, t, heads, head_dim), clipped and normed as the part says."""
        part = self.part
        if part.clip is not None:
            y_btd = jnp.clip(y_btd, -part.clip, part.clip)
        if norm is not None and part.qk_norm.over == "all":
            y_btd = norm(y_btd)
        y_bthd = y_btd.reshape(*y_btd.shape[:2], heads, part.head_dim)
        return norm(y_bthd) if norm is not None and part.qk_norm.over == "head" else y_bthd


class RematAttentionLayer(AttentionLayer):
    """For attention whose `attn_bias` depends on the queries: recomputed in the backward pass, so that no bias of
    length x length is stored."""

    def mixed(self, y_btd, x_bsd, context, key, at_bk):
        def mixed(y_btd, x_bsd):
            return super(RematAttentionLayer, self).mixed(y_btd, x_bsd, context, key, at_bk)

        return remat(mixed)(y_btd, x_bsd)


class CrossAttentionLayer(AttentionLayer):
    def __call__(self, x_btd, context: Context, key, at_bk=None):
        """(batch, t, width). `at` says which positions x holds, if not all."""
        return self.mixed(x_btd, context.memory, context, key, at_bk)
