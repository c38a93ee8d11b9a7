"""Attention by segments: a token sees the tokens of its own text, as far as causality and window allow.

Letters: b batch, t query length, s key length, k key/value heads, g queries per key head, r = g t, h head width.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.dropout import keep_mask
from jaxft.models.parts import Linear, read, subkey
from jaxft.models.rotary import Rotary, rotate
from jaxft.models.spec import Part
from jaxft.models.tiles import by_tiles
from jaxft.parallel.mesh import shard

MASKED = -1e30  # finite, so that the softmax of a row can never be NaN, in bf16 as well


@dataclass(frozen=True)
class HeadNorm:
    """A norm of queries and of keys before they meet: over each head's width, or over all heads together."""

    norm: Part
    over: str = "head"  # or "all"


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
    cap: float | None = None  # scores bend towards it: cap * tanh(scores / cap) (Gemma 2, section 2)
    clip: float | None = None  # queries, keys and values are cut off at it
    qk_norm: HeadNorm | None = None
    slopes: tuple[float, ...] | None = None  # a head's scores fall by so much for each place (Press et al. 2022)

    def build(self, width):
        return AttentionLayer(self, width)

    @property
    def sight(self) -> tuple[bool, int | None]:
        """What decides which tokens a token sees."""
        return self.causal, self.window

    @property
    def scores(self) -> "Scores":
        return Scores(self.scale or 1.0 / math.sqrt(self.head_dim), self.cap, self.dropout)


@dataclass(frozen=True)
class Scores:
    """How products of queries and keys become weights."""

    scale: float
    cap: float | None = None
    dropout: float = 0.0


@dataclass
class Context:
    """What all layers of one call share: masks and rotary tables, each made once, outside the scan over layers."""

    segments: jax.Array
    positions: jax.Array
    masks: dict[tuple[bool, int | None], jax.Array] = field(default_factory=dict)
    tables: dict[Rotary, tuple[jax.Array, jax.Array]] = field(default_factory=dict)

    def prepare(self, part: Attention):
        if part.sight not in self.masks:
            self.masks[part.sight] = visible(self.segments, *part.sight)
        if part.rotary is not None and part.rotary not in self.tables:
            self.tables[part.rotary] = part.rotary.table(self.positions)

    def mask(self, part: Attention, at_bk: jax.Array | None) -> jax.Array:
        """Bool (batch, 1, t or slots, s): what the queries may see, those at `at` or all."""
        mask = self.masks[part.sight]
        return mask if at_bk is None else jnp.take_along_axis(mask, at_bk[:, None, :, None], 2)

    def lean(self, part: Attention) -> jax.Array | None:
        """Float32 (batch, k, g, s): what every key adds to the scores of a head; None: nothing.

        Less for each place between query and key is, but for what all keys of a query have in common, more for each
        place of the key.
        """
        if part.slopes is None:
            return None
        slopes = jnp.array(part.slopes, jnp.float32).reshape(1, part.kv_heads, -1, 1)
        return slopes * self.positions[:, None, None, :].astype(jnp.float32)

    def table(self, part: Attention, at_bk: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Rotary cosine and sine of the positions, those at `at` or all."""
        whole = self.tables[part.rotary]
        return whole if at_bk is None else tuple(jnp.take_along_axis(x, at_bk[..., None, None], 1) for x in whole)


def visible(segments_bt: jax.Array, causal: bool, window: int | None = None) -> jax.Array:
    """Bool (batch, 1, t, s): may query t see key s?

    Padding is segment 0 and sees padding, so every query sees at least itself and no softmax runs over nothing.
    """
    same = segments_bt[:, :, None] == segments_bt[:, None, :]
    place = jnp.arange(segments_bt.shape[1])
    back = place[:, None] - place  # how far the key lies behind the query
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
        norm, whole = part.qk_norm, part.qk_norm is not None and part.qk_norm.over == "all"
        self.q_norm = norm.norm.build(inner if whole else part.head_dim) if norm else nnx.data(None)
        self.k_norm = norm.norm.build(inner_kv if whole else part.head_dim) if norm else nnx.data(None)

    def __call__(self, x_btd: jax.Array, context: Context, key: jax.Array | None, at_bk=None) -> jax.Array:
        """(batch, t, width); with `at` (batch, slots) the results at these positions only, (batch, slots, width)."""
        part, y_btd = self.part, read(x_btd, at_bk)
        q = self._heads(self.q(y_btd), part.heads, self.q_norm)
        k = self._heads(self.k(x_btd), part.kv_heads, self.k_norm)
        v = self._heads(self.v(x_btd), part.kv_heads, None)
        if part.rotary is not None:
            q, k = rotate(q, context.table(part, at_bk), part.rotary), rotate(k, context.table(part, None), part.rotary)
        q, k, v = (shard(y, "batch", None, "heads", None) for y in (q, k, v))
        mixed = attend(q, k, v, context.mask(part, at_bk), part.scores, subkey(key, 0), context.lean(part))
        return self.o(mixed.reshape(*y_btd.shape[:2], part.heads * part.head_dim))

    def _heads(self, y_btd, heads: int, norm):
        """(batch, t, heads, head_dim), clipped and normed as the part says."""
        part = self.part
        if part.clip is not None:
            y_btd = jnp.clip(y_btd, -part.clip, part.clip)
        if norm is not None and part.qk_norm.over == "all":
            y_btd = norm(y_btd)
        y_bthd = y_btd.reshape(*y_btd.shape[:2], heads, part.head_dim)
        return norm(y_bthd) if norm is not None and part.qk_norm.over == "head" else y_bthd


def attend(q, k, v, mask, how: Scores, key: jax.Array | None, lean=None):
    """Softmax attention with float32 scores; q (b, t, heads, h), k and v (b, s, kv_heads, h) -> (b, t, heads, h).

    `lean` (b, k, g, s) is added to the scores. The backward pass computes the scores anew from their row sums (Dao et
    al. 2022, algorithm 4), and draws dropout's bits again, so that no array of length x length outlives the layer.
    """
    b, t, heads, h = q.shape
    kv, g = k.shape[2], heads // k.shape[2]
    # Heads before positions: every product is then one of matrices that lie whole in memory.
    q = q.reshape(b, t, kv, g, h).transpose(0, 2, 3, 1, 4).reshape(b, kv, g * t, h)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    mixed = dot_product_attention(q, k, v, mask, lean, None if how.dropout == 0.0 else key, how)
    return mixed.reshape(b, kv, g, t, h).transpose(0, 3, 1, 2, 4).reshape(b, t, heads, h)


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def dot_product_attention(q_bkrh, k_bksh, v_bksh, mask, lean, key, how: Scores):
    """softmax(scale q k') v, of whose weights dropout leaves 1 - rate (key None: all)."""
    return _forward(q_bkrh, k_bksh, v_bksh, mask, lean, key, how)[0]


def _forward(q, k, v, mask, lean, key, how):
    mixed, log_total = by_tiles(partial(_forward_tile, how), q, k, v, mask, lean, _kept(q, k, key, how))
    return mixed, (q, k, v, mask, lean, key, log_total, mixed)


def _backward(how, saved, grad):
    q, k, v, mask, lean, key, log_total, mixed = saved
    keep = _kept(q, k, key, how)
    grads = by_tiles(partial(_backward_tile, how), q, k, v, mask, lean, keep, log_total, mixed, grad)
    return *grads, None, jax.tree.map(jnp.zeros_like, lean), None


def _kept(q, k, key, how):
    """Which weights dropout leaves: bool (b, k, r, s), or None for all."""
    return None if key is None else keep_mask(key, how.dropout, (*q.shape[:3], k.shape[2]))


dot_product_attention.defvjp(_forward, _backward)


def _forward_tile(how, q, k, v, mask, lean, keep):
    scores = _visible(_bent(_scores(how, q, k), how), mask, lean)
    top = jnp.max(scores, -1, keepdims=True)
    powers = jnp.exp(scores - top)
    total = jnp.sum(powers, -1, keepdims=True)
    dropped = _drop(powers, keep, how.dropout).astype(v.dtype)
    mixed = jnp.einsum("bkrs,bksh->bkrh", dropped, v, preferred_element_type=jnp.float32) / total
    return mixed.astype(v.dtype), top + jnp.log(total)


def _backward_tile(how, q, k, v, mask, lean, keep, log_total, mixed, grad):
    bent = _bent(_scores(how, q, k), how)
    weights = jnp.exp(_visible(bent, mask, lean) - log_total)
    grad_v = _columns(_drop(weights, keep, how.dropout).astype(v.dtype), grad)
    grad_weights = jnp.einsum("bkrh,bksh->bkrs", grad, v, preferred_element_type=jnp.float32)
    grad_weights = _drop(grad_weights, keep, how.dropout)
    # The softmax subtracts the mean gradient of a row, by its weights: what the row's output times its gradient is.
    # Summed by a product: XLA on CPU would merge a sum with what follows, and do that three times slower.
    mean = (grad.astype(jnp.float32) * mixed.astype(jnp.float32)) @ jnp.ones((q.shape[-1], 1), jnp.float32)
    grad_scores = weights * (grad_weights - mean)
    if how.cap is not None:
        grad_scores = grad_scores * (1.0 - (bent / how.cap) ** 2)
    grad_scores = (grad_scores * how.scale).astype(q.dtype)
    grad_q = jnp.einsum("bkrs,bksh->bkrh", grad_scores, k)
    grad_k = _columns(grad_scores, q)
    return grad_q, grad_k, grad_v


def _columns(weights_bkrs, y_bkrh):
    """Sum over queries, (b, k, s, h). Turning y, which is small, keeps XLA from turning the weights."""
    return jnp.einsum("bkhr,bkrs->bkhs", y_bkrh.swapaxes(2, 3), weights_bkrs).swapaxes(2, 3)


def _scores(how, q, k):
    return jnp.einsum("bkrh,bksh->bkrs", q, k, preferred_element_type=jnp.float32) * how.scale


def _bent(scores, how):
    return scores if how.cap is None else how.cap * jnp.tanh(scores / how.cap)


def _visible(scores, mask, lean):
    """Scores of what each query sees; of a query head's r rows there are t for each of its g heads."""
    g = scores.shape[2] // mask.shape[2]
    if lean is not None:
        scores = scores + jnp.repeat(lean, scores.shape[2] // lean.shape[2], axis=2)
    # Added, not selected: XLA on CPU runs products and float32 arithmetic as one piece, which a selection would cut.
    return scores + jnp.tile(jnp.where(mask, 0.0, MASKED), (1, 1, g, 1))


def _drop(x, keep, rate):
    return x if keep is None else x * jnp.where(keep, 1.0 / (1.0 - rate), 0.0)
