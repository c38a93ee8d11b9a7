"""Attention by segments: a token attends to the tokens of its own text that causality and window allow.

Letters: b batch, t query length, s key length, d width, k key/value heads, g queries per key head, h head width.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.layers.basic import Linear, fold_key, param, remat
from jaxft.models.layers.context import AttentionPlan, Carry, Context
from jaxft.models.layers.kernels.choice import choose_kernel
from jaxft.models.layers.kernels.kernel import AttentionCall, MaskSpec, SoftmaxSpec
from jaxft.models.layers.kernels.tiled import attention_weights
from jaxft.models.layers.relative_bias import RelativeBias
from jaxft.models.layers.rotary import Rotary, rotate
from jaxft.models.layers.tokens import Tokens
from jaxft.models.part import NormPart
from jaxft.parallel.mesh import platform, shard


@dataclass(frozen=True)
class QKNorm:
    """A norm of queries and keys: over each head's width, or over all heads together."""

    norm: NormPart
    over: str = "head"  # or "all"
    shared: bool = True  # all heads, normed one by one, share a scale; False: each has its own


@dataclass(frozen=True)
class Attention:
    """Multi-head or grouped-query self-attention (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023)."""

    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    rotary: Rotary | None = None
    bias: frozenset[str] = frozenset("qkvo")  # the projections that have a bias
    dropout: float = 0.0  # on the attention weights
    scale: float | None = None  # of the scores; None: 1 / sqrt(head_dim)
    window: int | None = None  # sliding window: a token attends to tokens fewer than this many positions away
    softcap: float | None = None  # softcap * tanh(scores / softcap) (Gemma 2, section 2)
    clip: float | None = None  # queries, keys and values are clipped to [-clip, clip]
    qk_norm: QKNorm | None = None
    alibi_slopes: tuple[float, ...] | None = None  # per head, what a score loses per position (Press et al. 2022)
    rel_bias: RelativeBias | None = None  # learned; needs heads == kv_heads
    sinks: bool = False  # a learned score per head that takes weight and has no value (Xiao et al. 2024)

    def build(self, width: int) -> "AttentionLayer":
        return AttentionLayer(self, width)

    def mask(self, context: Context) -> MaskSpec:
        """Which keys a query attends to."""
        return MaskSpec(self.causal, self.window, context.prefix.length if context.prefix else 0)

    @property
    def softmax(self) -> SoftmaxSpec:
        scale = self.scale or 1.0 / math.sqrt(self.head_dim)
        return SoftmaxSpec(scale, self.softcap, self.dropout, learned_bias=self.rel_bias is not None)

    @property
    def has_attn_bias(self) -> bool:
        """Whether `attn_bias` of its layer gives something."""
        return self.alibi_slopes is not None or self.rel_bias is not None

    def keys(self, context: Context) -> Tokens:
        """The tokens that the queries attend to."""
        return context.keys

    def call(self, context: Context) -> AttentionCall:
        queries, keys = (x.segments.shape[1] for x in (context.queries, self.keys(context)))
        mask = self.mask(context)
        sizes = queries, keys + mask.prefix, self.heads, self.kv_heads, self.head_dim
        return AttentionCall(platform(), *sizes, mask, self.softmax, self.has_attn_bias, self.sinks)


@dataclass(frozen=True)
class CrossAttention(Attention):
    """Attention of a decoder's text to the encoder's output for the same text (Vaswani et al. 2017, section 3.2.3)."""

    causal: bool = False

    def build(self, width: int) -> "CrossAttentionLayer":
        return CrossAttentionLayer(self, width)

    def mask(self, context: Context) -> MaskSpec:
        return MaskSpec(self.causal, self.window)

    def keys(self, context: Context) -> Tokens:
        return context.encoded.tokens


def plan_attention(context: Context, parts: Iterable[Attention]) -> Context:
    """The context with a plan for each part. Parts with the same mask or the same rotary positions share the arrays."""

    masks: dict[tuple, Any] = {}

    @cache
    def tables(rotary: Rotary):
        longest = jnp.max(context.keys.positions) + 1
        keys = rotary.table(context.keys.positions, longest)
        return keys if context.is_square else rotary.table(context.queries.positions, longest), keys

    plans = dict(context.plans)
    for part in dict.fromkeys(parts):
        kernel, keys, mask = choose_kernel(part.call(context)), part.keys(context), part.mask(context)
        shared = kernel.name, mask, id(keys)
        if shared not in masks:
            masks[shared] = kernel.prepare(mask, context.queries, keys)
        plans[part] = AttentionPlan(kernel, masks[shared], None if part.rotary is None else tables(part.rotary))
    return replace(context, plans=plans)


class KeyPrefix(nnx.Module):
    """Trained keys and values of a layer, before those of every text (jaxft/adapters/prefix_tuning.py)."""

    def __call__(self, hidden: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Keys and values, each float32 (length, kv_heads * head_dim), from `Prefix.hidden` (context.py)."""
        raise NotImplementedError


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
        learned = part.rel_bias
        self.rel_bias = nnx.data(None) if learned is None or learned.shared else learned.build(width)
        self.sinks = param((part.heads,), ("heads",), "other", "zeros") if part.sinks else nnx.data(None)
        self.prefix: Any = nnx.data(None)

    def __call__(self, x_bsd: jax.Array, context: Context, key: jax.Array | None) -> tuple[jax.Array, Carry]:
        """(batch, t, width) for the t queries of the context, from x (batch, s, width), which holds all keys."""
        return self.attend(context.gather(x_bsd), x_bsd, context, key)

    def attend(
        self, x_btd: jax.Array, x_bsd: jax.Array, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Carry]:
        """(batch, t, width): queries from x (batch, t, width) attend to keys from x (batch, s, width)."""
        part, plan = self.part, context.plans[self.part]
        q = self._heads(self.q(x_btd, fold_key(key, 2)), part.heads, self.q_norm)
        k = self._heads(self.k(x_bsd, fold_key(key, 3)), part.kv_heads, self.k_norm)
        v = self._heads(self.v(x_bsd, fold_key(key, 4)), part.kv_heads, None)
        if part.rotary is not None and plan.rotary is not None:
            q, k = (rotate(x, table, part.rotary) for x, table in zip((q, k), plan.rotary, strict=True))
        if self.prefix is not None and context.prefix is not None:
            rows = self.prefix(context.prefix.hidden)
            k, v = (self._prefixed(x, row) for x, row in zip((k, v), rows, strict=True))
        q = shard(q, "batch", "length", "heads", None)
        k, v = (shard(x, "batch", "key_length", "heads", None) for x in (k, v))
        bias = self.attn_bias(q, k, context, key)
        sinks = None if self.sinks is None else self.sinks[...]
        y = plan.kernel(q, k, v, plan.mask, part.softmax, fold_key(key, 0), bias, sinks)
        y = self.o(y.reshape(*x_btd.shape[:2], part.heads * part.head_dim), fold_key(key, 5))
        return y, self._carry(q, k, context, bias, sinks)

    def attn_bias(
        self, q_bthd: jax.Array, k_bshd: jax.Array, context: Context, key: jax.Array | None
    ) -> jax.Array | None:
        """What is added to the scores: float32 (1 or batch, kv_heads, t or heads / kv_heads, s); None: nothing."""
        if self.part.alibi_slopes is not None:
            # A query's own position is the same for all its keys, and the softmax does not see it.
            slopes = jnp.array(self.part.alibi_slopes, float).reshape(1, self.part.kv_heads, -1, 1)
            positions = context.keys.positions
            if context.prefix is not None:
                before = jnp.arange(context.prefix.length)[None]
                positions = jnp.concatenate([jnp.broadcast_to(before, (len(positions), before.shape[1])), positions], 1)
            return slopes * positions[:, None, None, :].astype(float)
        if self.part.rel_bias is None:
            return None
        bias = context.rel_bias if self.rel_bias is None else self.rel_bias(k_bshd.shape[1])
        if bias is None or context.is_square:
            return bias
        return bias[0][:, context.queries.indices].swapaxes(0, 1)

    def _carry(self, q, k, context: Context, bias, sinks) -> Carry:
        if not context.collect.attentions:
            return Carry()
        mask = self.part.mask(context).dense(context.queries, context.keys)
        return Carry(attentions=attention_weights(q, k, mask, self.part.softmax, bias, sinks)[None])

    def _prefixed(self, x_bskh: jax.Array, rows: jax.Array) -> jax.Array:
        """(batch, prefix + s, kv_heads, head_dim): the rows before the keys or the values of each row."""
        rows = rows.astype(x_bskh.dtype).reshape(1, len(rows), *x_bskh.shape[2:])
        return jnp.concatenate([jnp.broadcast_to(rows, (len(x_bskh), *rows.shape[1:])), x_bskh], 1)

    def _norm(self, heads: int):
        """The norm of queries or keys with `heads` heads; None if the part has none."""
        part, norm = self.part, self.part.qk_norm
        if norm is None:
            return nnx.data(None)
        if norm.over == "all":
            return norm.norm.build(heads * part.head_dim)
        return norm.norm.build(part.head_dim, None if norm.shared else heads)

    def _heads(self, y_btd, heads: int, norm):
        """(batch, t, heads, head_dim), clipped and normed as the part says."""
        part = self.part
        if part.clip is not None:
            y_btd = jnp.clip(y_btd, -part.clip, part.clip)
        over = part.qk_norm.over if part.qk_norm is not None and norm is not None else None
        if over == "all":
            y_btd = norm(y_btd)
        y_bthd = y_btd.reshape(*y_btd.shape[:2], heads, part.head_dim)
        return norm(y_bthd) if over == "head" else y_bthd


class RematAttentionLayer(AttentionLayer):
    """For attention whose bias depends on the queries: recomputed in the backward pass, so that no length x length bias
    is stored."""

    def attend(
        self, x_btd: jax.Array, x_bsd: jax.Array, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Carry]:
        def attend(x_btd, x_bsd):
            return super(RematAttentionLayer, self).attend(x_btd, x_bsd, context, key)

        return remat(attend)(x_btd, x_bsd)


class CrossAttentionLayer(AttentionLayer):
    def __call__(self, x_btd: jax.Array, context: Context, key: jax.Array | None) -> tuple[jax.Array, Carry]:
        """(batch, t, width) for the t queries, which x holds."""
        return self.attend(x_btd, context.encoded.hidden, context, key)

    def _carry(self, q, k, context, bias, sinks):
        return Carry()  # `attentions` are those of a text to itself
