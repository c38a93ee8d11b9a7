"""From queries, keys and values to what attention gathers, with a backward pass that stores no scores.

Letters: b batch, t query length, s key length, k key/value heads, g queries per key head, r = g t, h head width.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxft.models.layers.dropout import keep_mask
from jaxft.models.layers.kernels.tiles import by_tiles
from jaxft.models.layers.precision import accumulator, upcast

MASKED = -1e30  # finite, so that the softmax of a row can never be NaN, in bf16 as well


@dataclass(frozen=True)
class Scores:
    """How products of queries and keys become weights."""

    scale: float
    softcap: float | None = None
    dropout: float = 0.0
    learned: bool = False  # whether what is added to the scores has a gradient


def attend(q, k, v, mask, how: Scores, key: jax.Array | None, attn_bias=None, sinks=None):
    """Softmax attention with float32 scores; q (b, t, heads, h), k and v (b, s, kv_heads, h) -> (b, t, heads, h).

    `attn_bias` (1 or b, kv_heads, rows, s) is added to the scores; its rows are those of the queries, g t of them,
    or g, the same for all t. `sinks` (heads,) are scores of keys that every query sees and whose values are 0. The
    backward pass computes the scores anew from their row sums (Dao et al. 2022, algorithm 4), and draws dropout's
    bits again, so that no array of length x length outlives the layer.
    """
    b, t, heads, h = q.shape
    kv, g = k.shape[2], heads // k.shape[2]
    # Heads before positions: every product is then one of matrices that lie whole in memory.
    q = q.reshape(b, t, kv, g, h).transpose(0, 2, 3, 1, 4).reshape(b, kv, g * t, h)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    sinks = None if sinks is None else upcast(sinks).reshape(1, kv, g, 1)
    mixed = dot_product_attention(q, k, v, mask, attn_bias, sinks, None if how.dropout == 0.0 else key, how)
    return mixed.reshape(b, kv, g, t, h).transpose(0, 3, 1, 2, 4).reshape(b, t, heads, h)


@partial(jax.custom_vjp, nondiff_argnums=(7,))
def dot_product_attention(q_bkrh, k_bksh, v_bksh, mask, attn_bias, sinks, key, how: Scores):
    """softmax(scale q k') v, of whose weights dropout leaves 1 - rate (key None: all)."""
    return _forward(q_bkrh, k_bksh, v_bksh, mask, attn_bias, sinks, key, how)[0]


def _forward(q, k, v, mask, attn_bias, sinks, key, how):
    saved = q, k, v, mask, attn_bias, sinks, key
    q, mask, attn_bias = _in_the_loop(q, mask, attn_bias)
    (mixed, log_total), _ = by_tiles(
        partial(_forward_tile, how), q, k, v, mask, attn_bias, sinks, _kept(q, k, key, how)
    )
    return mixed, (*saved, log_total, mixed)


def _backward(how, saved, grad):
    q, k, v, mask, attn_bias, sinks, key, log_total, mixed = saved
    q, mask, attn_bias = _in_the_loop(q, mask, attn_bias)
    keep = _kept(q, k, key, how)
    shared = attn_bias is not None and len(attn_bias) != len(q)
    tile = partial(_backward_tile, how, shared)
    (grads, grad_lean), sum_lean = by_tiles(tile, q, k, v, mask, attn_bias, keep, log_total, mixed, grad)
    if how.learned:
        grad_lean = sum_lean if shared else grad_lean
    else:
        grad_lean = jax.tree.map(jnp.zeros_like, attn_bias)
    grad_sinks = None if sinks is None else _sinks_gradient(sinks, log_total, mixed, grad)
    return *grads, None, grad_lean, grad_sinks, None


def _in_the_loop(q, mask, attn_bias):
    """The same arrays, of which mask and lean are known only when the layer's queries are.

    They are alike in all layers, so that JAX and XLA would make from them before the loop over layers, and keep for all
    tiles, what is added to the scores: float32 (b, k, r, s), 8 GiB for a row of 8,192 tokens and 32 heads.
    """
    return jax.lax.optimization_barrier((q, mask, attn_bias))


def _sinks_gradient(sinks_1kg1, log_total_bkr1, mixed_bkrh, grad_bkrh):
    """A sink takes its weight from what the row gathers."""
    b, k, r, h = mixed_bkrh.shape
    g = sinks_1kg1.shape[2]
    mean = jnp.sum(upcast(grad_bkrh) * upcast(mixed_bkrh), -1).reshape(b, k, g, -1)
    weights = jnp.exp(sinks_1kg1 - log_total_bkr1.reshape(b, k, g, -1))
    return -jnp.sum(weights * mean, (0, 3), keepdims=True)


def _kept(q, k, key, how):
    """Which weights dropout leaves: bool (b, k, r, s), or None for all."""
    return None if key is None else keep_mask(key, how.dropout, (*q.shape[:3], k.shape[2]))


dot_product_attention.defvjp(_forward, _backward)


def _forward_tile(how, q, k, v, mask, attn_bias, sinks, keep):
    scores = _masked(_softcapped(_scores(how, q, k), how), mask, attn_bias)
    top = jnp.max(scores, -1, keepdims=True)
    if sinks is not None:
        sinks = jnp.repeat(sinks, scores.shape[2] // sinks.shape[2], 2)
        top = jnp.maximum(top, sinks)
    powers = jnp.exp(scores - top)
    total = jnp.sum(powers, -1, keepdims=True)
    if sinks is not None:
        total = total + jnp.exp(sinks - top)
    dropped = _drop(powers, keep, how.dropout).astype(v.dtype)
    mixed = jnp.einsum("bkrs,bksh->bkrh", dropped, v, preferred_element_type=accumulator(v)) / total
    return (mixed.astype(v.dtype), top + jnp.log(total)), None


def _backward_tile(how, shared, q, k, v, mask, attn_bias, keep, log_total, mixed, grad):
    bent = _softcapped(_scores(how, q, k), how)
    weights = jnp.exp(_masked(bent, mask, attn_bias) - log_total)
    grad_v = _columns(_drop(weights, keep, how.dropout).astype(v.dtype), grad)
    grad_weights = jnp.einsum("bkrh,bksh->bkrs", grad, v, preferred_element_type=accumulator(v))
    grad_weights = _drop(grad_weights, keep, how.dropout)
    # The softmax subtracts the mean gradient of a row, by its weights: what the row's output times its gradient is.
    # Summed by a product: XLA on CPU would merge a sum with what follows, and do that three times slower.
    mean = (upcast(grad) * upcast(mixed)) @ jnp.ones((q.shape[-1], 1), accumulator(q))
    grad_scores = weights * (grad_weights - mean)
    grad_lean = grad_scores if how.learned and not shared else None
    sum_lean = jnp.sum(grad_scores, 0, keepdims=True) if how.learned and shared else None
    if how.softcap is not None:
        grad_scores = grad_scores * (1.0 - (bent / how.softcap) ** 2)
    grad_scores = (grad_scores * how.scale).astype(q.dtype)
    grad_q = jnp.einsum("bkrs,bksh->bkrh", grad_scores, k)
    grad_k = _columns(grad_scores, q)
    return ((grad_q, grad_k, grad_v), grad_lean), sum_lean


def _columns(weights_bkrs, y_bkrh):
    """Sum over queries, (b, k, s, h). Turning y, which is small, keeps XLA from turning the weights."""
    return jnp.einsum("bkhr,bkrs->bkhs", y_bkrh.swapaxes(2, 3), weights_bkrs).swapaxes(2, 3)


def _scores(how, q, k):
    return jnp.einsum("bkrh,bksh->bkrs", q, k, preferred_element_type=accumulator(q)) * how.scale


def _softcapped(scores, how):
    return scores if how.softcap is None else how.softcap * jnp.tanh(scores / how.softcap)


def _masked(scores, mask, attn_bias):
    """Scores of what each query sees; of a query head's r rows there are t for each of its g heads."""
    g = scores.shape[2] // mask.shape[2]
    if attn_bias is not None:
        scores = scores + jnp.repeat(attn_bias, scores.shape[2] // attn_bias.shape[2], axis=2)
    # Added, not selected: XLA on CPU runs products and float32 arithmetic as one piece, which a selection would cut.
    return scores + jnp.tile(jnp.where(mask, 0.0, MASKED), (1, 1, g, 1))


def _drop(x, keep, rate):
    return x if keep is None else x * jnp.where(keep, 1.0 / (1.0 - rate), 0.0)
