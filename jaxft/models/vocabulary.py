"""Scores for every entry of a vocabulary: as a whole, or as a loss that never holds all of them at once.

Letters: b batch, k slots, d width, v vocabulary.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

CHUNK = 2**25  # scores that exist at one time, over all devices: 128 MiB


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Vocabulary:
    """The product of hidden states with the rows of a table, plus a bias, not yet done."""

    hidden_bkd: jax.Array
    table_vd: jax.Array  # float32 if it trains; used in the dtype of `hidden`
    bias_v: jax.Array | None
    cap: float | None = field(default=None, metadata={"static": True})  # scores bend towards it: cap * tanh(x / cap)

    def scores(self) -> jax.Array:
        """(batch, slots, vocabulary), float32."""
        return _scores(self.hidden_bkd, *_cast(self), self.cap)

    def cross_entropy(self, targets_bk: jax.Array, weights_bk: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The weighted sum of the errors in nats, a number, and where the target scores best, bool (batch, slots)."""
        return _cross_entropy(self, targets_bk, weights_bk)


@jax.custom_vjp
def _cross_entropy(vocabulary, targets, weights):
    return _walk(vocabulary, targets, weights, _errors, 0.0)


def _forward(vocabulary, targets, weights):
    """Errors and, since they are summed with known weights, their gradients in the same pass: no score is kept."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (vocabulary.table_vd, vocabulary.bias_v))
    (total, *grads), (hits, grad_hidden) = _walk(vocabulary, targets, weights, _errors_and_gradients, (0.0, *zeros))
    return (total, hits), (grad_hidden, *grads, vocabulary)


def _backward(saved, cotangents):
    scale = cotangents[0]
    *grads, vocabulary = saved
    grads = Vocabulary(*grads, vocabulary.cap)
    return jax.tree.map(lambda g, x: (scale * g).astype(x.dtype), grads, vocabulary), None, None


_cross_entropy.defvjp(_forward, _backward)


def _walk(vocabulary, targets, weights, step, carry):
    """`step` over pieces of the slots: (what it sums up, what it gives for each slot)."""
    table, bias = _cast(vocabulary)
    rows, slots = targets.shape
    # A piece has slots of all rows, so that devices which share the rows have work in each.
    width = min(slots, max(1, CHUNK // (rows * table.shape[0])))
    pieces = [_cut(x, width) for x in (vocabulary.hidden_bkd, targets, weights)]

    def body(carry, piece):
        return step(table, bias, vocabulary.cap, carry, *piece)

    if width == slots:
        carry, given = body(carry, [x[0] for x in pieces])
        return carry, given
    carry, given = jax.lax.scan(body, carry, pieces)
    return carry, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, -1, *x.shape[3:])[:, :slots], given)


def _cut(x, width):
    """(b, k, ...) -> (pieces, b, width, ...), the last piece filled up with zeros."""
    count = -(-x.shape[1] // width)
    x = jnp.pad(x, [(0, 0), (0, count * width - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], count, width, *x.shape[2:]), 1, 0)


def _errors(table, bias, cap, total, hidden, targets, weights):
    errors, hits, _, _ = _score(table, bias, cap, hidden, targets)
    return total + _weighed(errors, weights), hits


def _errors_and_gradients(table, bias, cap, carry, hidden, targets, weights):
    total, grad_table, grad_bias = carry
    errors, hits, scores, norm = _score(table, bias, cap, hidden, targets)
    right = targets[..., None] == jnp.arange(table.shape[0])
    grads = jnp.exp(scores - norm) - right
    grads = grads if cap is None else grads * (1.0 - (scores / cap) ** 2)
    grads = jnp.where(weights[..., None] > 0, grads * weights[..., None], 0.0)
    grad_bias = None if grad_bias is None else grad_bias + jnp.sum(grads, (0, 1))
    grads = grads.astype(hidden.dtype)
    grad_table += jnp.einsum("bkv,bkd->vd", grads, hidden, preferred_element_type=jnp.float32)
    return (total + _weighed(errors, weights), grad_table, grad_bias), (hits, grads @ table)


def _weighed(errors, weights):
    """Where a weight is 0 the error does not matter, be it NaN."""
    return jnp.sum(jnp.where(weights > 0, errors * weights, 0.0))


def _score(table, bias, cap, hidden, targets):
    """Errors and hits of each slot, its scores and the logarithm of their summed powers (b, k, 1)."""
    scores = _scores(hidden, table, bias, cap)
    norm = jax.nn.logsumexp(scores, -1, keepdims=True)
    errors = norm[..., 0] - jnp.take_along_axis(scores, targets[..., None], -1)[..., 0]
    return errors, jnp.argmax(scores, -1) == targets, scores, norm


def _scores(hidden, table, bias, cap):
    scores = jnp.einsum("bkd,vd->bkv", hidden, table, preferred_element_type=jnp.float32)
    scores = scores if bias is None else scores + bias
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def _cast(vocabulary: Vocabulary):
    bias = vocabulary.bias_v
    dtype = vocabulary.hidden_bkd.dtype
    return vocabulary.table_vd.astype(dtype), None if bias is None else bias.astype(dtype).astype(jnp.float32)
