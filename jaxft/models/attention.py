"""Attention by segments: a token sees the tokens of its own text, as far as causality and window allow.

Letters: b batch, t query length, s key length, k key/value heads, g queries per key head, r = g t, h head width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.dropout import keep_mask
from jaxft.models.parts import Linear, Rotary, read, rotate, subkey
from jaxft.parallel.mesh import shard, shares

MASKED = -1e30  # finite, so that the softmax of a row can never be NaN, in bf16 as well

# Bytes of float32 scores that a device has at once: what a CPU's caches hold, and enough to keep others busy.
TILE = {"cpu": 2**22, "other": 2**28}


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

    def mask(self, part: Attention, at_bk: jax.Array | None) -> jax.Array:
        """Bool (batch, 1, t or slots, s): what the queries may see, those at `at` or all."""
        mask = self.masks[part.causal]
        return mask if at_bk is None else jnp.take_along_axis(mask, at_bk[:, None, :, None], 2)

    def table(self, part: Attention, at_bk: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Rotary cosine and sine of the positions, those at `at` or all."""
        whole = self.tables[part.rotary]
        return whole if at_bk is None else tuple(jnp.take_along_axis(x, at_bk[..., None, None], 1) for x in whole)


def visible(segments_bt: jax.Array, causal: bool) -> jax.Array:
    """Bool (batch, 1, t, s): may query t see key s?

    Padding is segment 0 and sees padding, so every query sees at least itself and no softmax runs over nothing.
    """
    same = segments_bt[:, :, None] == segments_bt[:, None, :]
    if causal:
        length = segments_bt.shape[1]
        same = same & jnp.tril(jnp.ones((length, length), bool))
    return same[:, None]


class AttentionLayer(nnx.Module):
    def __init__(self, part: Attention, width: int):
        self.part = part
        inner, inner_kv = part.heads * part.head_dim, part.kv_heads * part.head_dim
        self.q = Linear(width, inner, ("embed", "heads"), "q" in part.bias)
        self.k = Linear(width, inner_kv, ("embed", "heads"), "k" in part.bias)
        self.v = Linear(width, inner_kv, ("embed", "heads"), "v" in part.bias)
        self.o = Linear(inner, width, ("heads", "embed"), "o" in part.bias)

    def __call__(self, x_btd: jax.Array, context: Context, key: jax.Array | None, at_bk=None) -> jax.Array:
        """(batch, t, width); with `at` (batch, slots) the results at these positions only, (batch, slots, width)."""
        part, y_btd = self.part, read(x_btd, at_bk)
        q = self.q(y_btd).reshape(*y_btd.shape[:2], part.heads, part.head_dim)
        k = self.k(x_btd).reshape(*x_btd.shape[:2], part.kv_heads, part.head_dim)
        v = self.v(x_btd).reshape(*x_btd.shape[:2], part.kv_heads, part.head_dim)
        if part.rotary is not None:
            q, k = rotate(q, context.table(part, at_bk)), rotate(k, context.table(part, None))
        q, k, v = (shard(y, "batch", None, "heads", None) for y in (q, k, v))
        mixed = attend(q, k, v, context.mask(part, at_bk), part.dropout, subkey(key, 0))
        return self.o(mixed.reshape(*y_btd.shape[:2], part.heads * part.head_dim))


def attend(q, k, v, mask, rate: float, key: jax.Array | None) -> jax.Array:
    """Softmax attention with float32 scores; q (b, t, heads, h), k and v (b, s, kv_heads, h) -> (b, t, heads, h).

    The backward pass computes the scores anew from their row sums (Dao et al. 2022, algorithm 4), and draws dropout's
    bits again, so that no array of length x length outlives the layer.
    """
    b, t, heads, h = q.shape
    kv, g = k.shape[2], heads // k.shape[2]
    # Heads before positions: every product is then one of matrices that lie whole in memory.
    q = q.reshape(b, t, kv, g, h).transpose(0, 2, 3, 1, 4).reshape(b, kv, g * t, h)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    mixed = dot_product_attention(q, k, v, mask, None if rate == 0.0 else key, rate)
    return mixed.reshape(b, kv, g, t, h).transpose(0, 3, 1, 2, 4).reshape(b, t, heads, h)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def dot_product_attention(q_bkrh, k_bksh, v_bksh, mask, key, rate: float):
    """softmax(q k' / sqrt(h)) v, of whose weights dropout leaves 1 - `rate` (key None: all)."""
    return _forward(q_bkrh, k_bksh, v_bksh, mask, key, rate)[0]


def _forward(q, k, v, mask, key, rate):
    mixed, log_total = by_tiles(partial(_forward_tile, rate), q, k, v, mask, _kept(q, k, key, rate))
    return mixed, (q, k, v, mask, key, log_total, mixed)


def _backward(rate, saved, grad):
    q, k, v, mask, key, log_total, mixed = saved
    tile = partial(_backward_tile, rate)
    return *by_tiles(tile, q, k, v, mask, _kept(q, k, key, rate), log_total, mixed, grad), None, None


def _kept(q, k, key, rate):
    """Which weights dropout leaves: bool (b, k, r, s), or None for all."""
    return None if key is None else keep_mask(key, rate, (*q.shape[:3], k.shape[2]))


dot_product_attention.defvjp(_forward, _backward)


def _forward_tile(rate, q, k, v, mask, keep):
    scores = _scores(q, k, mask)
    top = jnp.max(scores, -1, keepdims=True)
    powers = jnp.exp(scores - top)
    total = jnp.sum(powers, -1, keepdims=True)
    dropped = _drop(powers, keep, rate).astype(v.dtype)
    mixed = jnp.einsum("bkrs,bksh->bkrh", dropped, v, preferred_element_type=jnp.float32) / total
    return mixed.astype(v.dtype), top + jnp.log(total)


def _backward_tile(rate, q, k, v, mask, keep, log_total, mixed, grad):
    weights = jnp.exp(_scores(q, k, mask) - log_total)
    grad_v = _columns(_drop(weights, keep, rate).astype(v.dtype), grad)
    grad_weights = _drop(jnp.einsum("bkrh,bksh->bkrs", grad, v, preferred_element_type=jnp.float32), keep, rate)
    # The softmax subtracts the mean gradient of a row, by its weights: what the row's output times its gradient is.
    # Summed by a product: XLA on CPU would merge a sum with what follows, and do that three times slower.
    mean = (grad.astype(jnp.float32) * mixed.astype(jnp.float32)) @ jnp.ones((q.shape[-1], 1), jnp.float32)
    grad_scores = (weights * (grad_weights - mean) / math.sqrt(q.shape[-1])).astype(q.dtype)
    grad_q = jnp.einsum("bkrs,bksh->bkrh", grad_scores, k)
    grad_k = _columns(grad_scores, q)
    return grad_q, grad_k, grad_v


def by_tiles(function: Callable, q_bkrh, k_bksh, *more):
    """`function` of arrays (b, k, ...) that gives such arrays, a tile of some rows and key heads at a time.

    Scores are written and read several times: a tile of them stays in the caches, and no array of scores is as large as
    the batch. Dropout's choice is, a byte for each score.
    """
    b, k, r, _ = q_bkrh.shape
    rows, heads = tiles(b, k, 4 * r * k_bksh.shape[2])
    if rows * heads == 1:
        return function(q_bkrh, k_bksh, *more)

    def one(number):
        return function(*jax.tree.map(lambda x: _pick(x, number, rows, heads), (q_bkrh, k_bksh, *more)))

    done = jax.lax.map(one, jnp.arange(rows * heads))
    return jax.tree.map(lambda x: _joined(x, rows, heads), done)


def tiles(b: int, k: int, size: int) -> tuple[int, int]:
    """Into how many tiles rows and key heads are cut, whose scores take `size` bytes for a row and a key head.

    The fewest that keep a tile of each device within TILE; every device has a share of every tile.
    """
    spread_b, spread_k = shares(("batch", "heads"), (b, k))
    most = TILE.get(jax.default_backend(), TILE["other"]) // size * spread_b * spread_k  # pairs of row and key head
    options = [(n, 1) for n in divisors(b // spread_b)] + [(b // spread_b, n) for n in divisors(k // spread_k)]
    return next((x for x in options if b * k <= most * x[0] * x[1]), options[-1])


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _pick(x, number, rows, heads):
    """Tile `number` of an array (b, k, ...): every `rows`-th row and every `heads`-th head, so that sharded axes stay
    whole on each device."""
    many = heads if x.shape[1] > 1 else 1  # the mask is that of all heads
    x = x.reshape(x.shape[0] // rows, rows, x.shape[1] // many, many, *x.shape[2:])
    x = jax.lax.dynamic_index_in_dim(x, number // heads, 1, keepdims=False)
    return jax.lax.dynamic_index_in_dim(x, number % many, 2, keepdims=False)


def _joined(x, rows, heads):
    """Inverse of `_pick` for all tiles in a row, (rows * heads, b / rows, k / heads, ...)."""
    b, k = rows * x.shape[1], heads * x.shape[2]
    x = x.reshape(rows, heads, *x.shape[1:])
    return x.transpose(2, 0, 3, 1, *range(4, x.ndim)).reshape(b, k, *x.shape[4:])


def _columns(weights_bkrs, y_bkrh):
    """Sum over queries, (b, k, s, h). Turning y, which is small, keeps XLA from turning the weights."""
    return jnp.einsum("bkhr,bkrs->bkhs", y_bkrh.swapaxes(2, 3), weights_bkrs).swapaxes(2, 3)


def _scores(q, k, mask):
    scores = jnp.einsum("bkrh,bksh->bkrs", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    # Added, not selected: XLA on CPU runs products and float32 arithmetic as one piece, which a selection would cut.
    return scores + jnp.tile(jnp.where(mask, 0.0, MASKED), (1, 1, scores.shape[2] // mask.shape[2], 1))


def _drop(x, keep, rate):
    return x if keep is None else x * jnp.where(keep, 1.0 / (1.0 - rate), 0.0)
