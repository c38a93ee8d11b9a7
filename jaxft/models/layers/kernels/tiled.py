"""The reference kernel: attention in plain JAX, with a backward pass that stores no scores.

Letters: b batch, t query length, s key length, k key/value heads, g queries per key head, r = g t, h head width.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxft.models.layers.dropout import keep_mask
from jaxft.models.layers.kernels.kernel import AttentionCall, MaskSpec, SoftmaxSpec
from jaxft.models.layers.kernels.tiles import by_tiles, group_splits
from jaxft.models.layers.precision import accumulator, upcast
from jaxft.models.layers.tokens import Tokens
from jaxft.parallel.mesh import shard

MASKED = -1e30  # finite, so that the softmax of a row can never be NaN, in bf16 as well


class Tiled:
    """Softmax attention with a dense mask and float32 scores, computed in tiles of rows and key heads.

    The backward pass computes the scores anew from their row sums (Dao et al. 2022, algorithm 4), and draws dropout's
    bits again, so that no array of length x length outlives the layer.
    """

    name = "tiled"

    def refuses(self, call: AttentionCall) -> None:
        return None

    def prepare(self, mask: MaskSpec, queries: Tokens, keys: Tokens) -> jax.Array:
        return mask.dense(queries, keys)

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        mask: jax.Array,
        softmax: SoftmaxSpec,
        key: jax.Array | None,
        bias: jax.Array | None = None,
        sinks: jax.Array | None = None,
    ) -> jax.Array:
        (b, t, heads, _), s = q.shape, k.shape[1]
        splits = group_splits(heads // k.shape[2], 4 * t * s)
        if splits > 1:  # more key heads, each with fewer query heads: copies of keys are smaller than their scores
            k, v = (shard(jnp.repeat(x, splits, axis=2), "batch", "key_length", "heads", None) for x in (k, v))
            bias = None if bias is None else bias.reshape(len(bias), k.shape[2], -1, s)
        kv, g = k.shape[2], heads // k.shape[2]
        sinks = None if sinks is None else upcast(sinks).reshape(1, kv, g, 1)
        q, k, v = _by_heads(q, kv), k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
        key = None if softmax.dropout == 0.0 else key
        y = dot_product_attention(q, k, v, mask, bias, sinks, key, softmax)
        return y.reshape(b, kv, g, t, -1).transpose(0, 3, 1, 2, 4).reshape(b, t, heads, -1)


def attention_weights(
    q: jax.Array,
    k: jax.Array,
    mask: jax.Array,
    softmax: SoftmaxSpec,
    bias: jax.Array | None = None,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """Float32 (b, t, s): the attention weights of `Tiled`, without dropout, as the mean over all heads.

    The arguments are those of a kernel (kernel.py). One key head at a time, so that scores of all heads never exist.
    """
    (b, t, heads, _), s, kv = q.shape, k.shape[1], k.shape[2]
    q, k = _by_heads(q, kv), k.transpose(0, 2, 1, 3)
    sinks = None if sinks is None else upcast(sinks).reshape(1, kv, heads // kv, 1)

    def add(total, head):
        pick = partial(jax.lax.dynamic_slice_in_dim, start_index=head, slice_size=1, axis=1)
        of_head = jax.tree.map(lambda x: x if x.shape[1] == 1 else pick(x), (q, k, bias, sinks))
        powers, row_sum, _ = _powers(softmax, *of_head[:2], mask, *of_head[2:])
        weights = (powers / row_sum).reshape(b, -1, t, s)
        return total + jnp.sum(weights, 1).astype(jnp.float32), None

    total, _ = jax.lax.scan(add, jnp.zeros((b, t, s), jnp.float32), jnp.arange(kv))
    return total / heads


def _by_heads(q, kv):
    """(b, t, heads, h) -> (b, kv, r, h). Heads before positions: every product is then one of contiguous matrices."""
    b, t, heads, h = q.shape
    return q.reshape(b, t, kv, heads // kv, h).transpose(0, 2, 3, 1, 4).reshape(b, kv, -1, h)


@partial(jax.custom_vjp, nondiff_argnums=(7,))
def dot_product_attention(
    q_bkrh: jax.Array,
    k_bksh: jax.Array,
    v_bksh: jax.Array,
    mask: jax.Array,
    bias: jax.Array | None,
    sinks: jax.Array | None,
    key: jax.Array | None,
    softmax: SoftmaxSpec,
) -> jax.Array:
    """softmax(scale q k' + bias) v, (b, k, r, h); dropout leaves 1 - rate of the weights (key None: all)."""
    return _forward(q_bkrh, k_bksh, v_bksh, mask, bias, sinks, key, softmax)[0]


def _forward(q, k, v, mask, bias, sinks, key, softmax):
    saved = q, k, v, mask, bias, sinks, key
    q, mask, bias = _not_hoisted(q, mask, bias)
    keep = _keep(q, k, key, softmax)
    (out, log_sum), _ = by_tiles(partial(_forward_tile, softmax), q, k, v, mask, bias, sinks, keep)
    return out, (*saved, log_sum, out)


def _backward(softmax, saved, grad):
    q, k, v, mask, bias, sinks, key, log_sum, out = saved
    q, mask, bias = _not_hoisted(q, mask, bias)
    keep = _keep(q, k, key, softmax)
    shared = bias is not None and len(bias) != len(q)
    tile = partial(_backward_tile, softmax, shared)
    (grads, grad_bias), sum_bias = by_tiles(tile, q, k, v, mask, bias, keep, log_sum, out, grad)
    if softmax.learned_bias:
        grad_bias = sum_bias if shared else grad_bias
    else:
        grad_bias = jax.tree.map(jnp.zeros_like, bias)
    grad_sinks = None if sinks is None else _sinks_gradient(sinks, log_sum, out, grad)
    return *grads, None, grad_bias, grad_sinks, None


dot_product_attention.defvjp(_forward, _backward)


def _not_hoisted(q, mask, bias):
    """The same arrays; the compiler sees mask and bias depend on the layer's queries.

    They are the same in all layers. Without the barrier JAX and XLA would compute what is added to the scores before
    the loop over layers, and store it whole: float32 (b, k, r, s), 8 GiB for 32 heads and a row of 8,192 tokens.
    """
    return jax.lax.optimization_barrier((q, mask, bias))


def _keep(q, k, key, softmax):
    """The weights that dropout leaves: bool (b, k, r, s), or None for all."""
    return None if key is None else keep_mask(key, softmax.dropout, (*q.shape[:3], k.shape[2]))


def _sinks_gradient(sinks_1kg1, log_sum_bkr1, out_bkrh, grad_bkrh):
    """A sink takes its weight from the row's output."""
    b, k, r, h = out_bkrh.shape
    g = sinks_1kg1.shape[2]
    mean = jnp.sum(upcast(grad_bkrh) * upcast(out_bkrh), -1).reshape(b, k, g, -1)
    weights = jnp.exp(sinks_1kg1 - log_sum_bkr1.reshape(b, k, g, -1))
    return -jnp.sum(weights * mean, (0, 3), keepdims=True)


def _forward_tile(softmax, q, k, v, mask, bias, sinks, keep):
    powers, row_sum, log_sum = _powers(softmax, q, k, mask, bias, sinks)
    dropped = _drop(powers, keep, softmax.dropout).astype(v.dtype)
    out = jnp.einsum("bkrs,bksh->bkrh", dropped, v, preferred_element_type=accumulator(v)) / row_sum
    return (out.astype(v.dtype), log_sum), None


def _powers(softmax, q, k, mask, bias, sinks):
    """exp(scores - their maximum), (b, k, r, s), the sum of each row, and its logarithm plus the maximum."""
    scores = _masked(_softcapped(_scores(softmax, q, k), softmax), mask, bias)
    top = jnp.max(scores, -1, keepdims=True)
    if sinks is not None:
        sinks = jnp.repeat(sinks, scores.shape[2] // sinks.shape[2], 2)
        top = jnp.maximum(top, sinks)
    powers = jnp.exp(scores - top)
    row_sum = jnp.sum(powers, -1, keepdims=True)
    if sinks is not None:
        row_sum = row_sum + jnp.exp(sinks - top)
    return powers, row_sum, top + jnp.log(row_sum)


def _backward_tile(softmax, shared, q, k, v, mask, bias, keep, log_sum, out, grad):
    capped = _softcapped(_scores(softmax, q, k), softmax)
    weights = jnp.exp(_masked(capped, mask, bias) - log_sum)
    grad_v = _sum_over_queries(_drop(weights, keep, softmax.dropout).astype(v.dtype), grad)
    grad_weights = jnp.einsum("bkrh,bksh->bkrs", grad, v, preferred_element_type=accumulator(v))
    grad_weights = _drop(grad_weights, keep, softmax.dropout)
    # The softmax subtracts a row's mean gradient, weighted by its weights: the row's output times its gradient.
    # Summed by a product: XLA on CPU would fuse a sum with what follows, and compute that three times slower.
    mean = (upcast(grad) * upcast(out)) @ jnp.ones((q.shape[-1], 1), accumulator(q))
    grad_scores = weights * (grad_weights - mean)
    grad_bias = grad_scores if softmax.learned_bias and not shared else None
    sum_bias = jnp.sum(grad_scores, 0, keepdims=True) if softmax.learned_bias and shared else None
    if softmax.softcap is not None:
        grad_scores = grad_scores * (1.0 - (capped / softmax.softcap) ** 2)
    grad_scores = (grad_scores * softmax.scale).astype(q.dtype)
    grad_q = jnp.einsum("bkrs,bksh->bkrh", grad_scores, k)
    grad_k = _sum_over_queries(grad_scores, q)
    return ((grad_q, grad_k, grad_v), grad_bias), sum_bias


def _sum_over_queries(weights_bkrs, y_bkrh):
    """(b, k, s, h). Transposing y, which is small, keeps XLA from transposing the weights."""
    return jnp.einsum("bkhr,bkrs->bkhs", y_bkrh.swapaxes(2, 3), weights_bkrs).swapaxes(2, 3)


def _scores(softmax, q, k):
    return jnp.einsum("bkrh,bksh->bkrs", q, k, preferred_element_type=accumulator(q)) * softmax.scale


def _softcapped(scores, softmax):
    return scores if softmax.softcap is None else softmax.softcap * jnp.tanh(scores / softmax.softcap)


def _masked(scores, mask, bias):
    """Scores plus bias, and plus MASKED where a query does not attend. The g query heads of a key head share a mask."""
    g = scores.shape[2] // mask.shape[2]
    if bias is not None:
        scores = scores + jnp.repeat(bias, scores.shape[2] // bias.shape[2], axis=2)
    # Added, not selected: XLA on CPU runs products and float32 arithmetic as one piece, which a selection would cut.
    return scores + jnp.tile(jnp.where(mask, 0.0, MASKED), (1, 1, g, 1))


def _drop(x, keep, rate):
    return x if keep is None else x * jnp.where(keep, 1.0 / (1.0 - rate), 0.0)
