"""Logits of a vocabulary: materialised, or as a cross-entropy that never holds all of them at once.

Letters: b batch, k predictions, d width, v vocabulary.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxft.models.layers.precision import accumulator, upcast
from jaxft.parallel.mesh import data_shards, platform, shard, split

# Logits that a device holds at one time: float32, 128 and 256 MiB.
CHUNK = {"cpu": 2**25, "other": 2**26}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LazyLogits:
    """The product of hidden states with the rows of a table, plus a bias, not computed yet."""

    hidden_bkd: jax.Array
    table_vd: jax.Array  # float32 if it trains; used in the dtype of `hidden`
    bias_v: jax.Array | None
    softcap: float | None = field(default=None, metadata={"static": True})  # softcap * tanh(logits / softcap)

    def scores(self) -> jax.Array:
        """Float32 (batch, predictions, vocabulary)."""
        table, bias = _cast(self)
        return _scores(self.hidden_bkd, shard(table, "vocab", None), bias, self.softcap)

    def cross_entropy(self, targets_bk: jax.Array, weights_bk: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(weighted sum of the errors in nats, bool (batch, predictions): whether the target has the highest logit)."""
        return _cross_entropy(self, targets_bk, weights_bk)


class Axes(NamedTuple):
    """The mesh axes that split each dimension; () for none."""

    batch: tuple[str, ...] = ()
    width: tuple[str, ...] = ()  # of the table
    vocab: tuple[str, ...] = ()


@jax.custom_vjp
def _cross_entropy(lazy, targets, weights):
    total, hits, _ = _shared(lazy, targets, weights, gradients=False)
    return total, hits


def _forward(lazy, targets, weights):
    """Cross-entropies and, since their sum has known weights, their gradients in the same pass: no logit is stored."""
    total, hits, grads = _shared(lazy, targets, weights, gradients=True)
    return (total, hits), (grads, lazy)


def _backward(saved, cotangents):
    return jax.tree.map(lambda g, x: (cotangents[0] * g).astype(x.dtype), *saved), None, None


_cross_entropy.defvjp(_forward, _backward)


def _shared(lazy: LazyLogits, targets, weights, gradients: bool):
    """`_summed`, with each device's own rows and, on a mesh that splits it, its own part of the vocabulary.

    Left to itself, the compiler gathers the table, and sums its gradient over the devices, for each piece.
    """
    mesh, function = jax.sharding.get_abstract_mesh(), partial(_summed, gradients=gradients)
    if mesh.empty or mesh.size == 1:
        return function(lazy, targets, weights, axes=Axes())
    rows, extra = len(targets), -len(targets) % data_shards(mesh)  # extra rows do not count
    hidden, *others = (_filled(x, 0, extra) for x in (lazy.hidden_bkd, targets, weights))
    v, d = lazy.table_vd.shape
    axes = Axes(split("batch", rows + extra, mesh), split("embed", d, mesh), split("vocab", v, mesh))
    # A LazyLogits of placements, as shard_map takes it.
    own: Any = PartitionSpec(axes.batch or None)
    table: Any = PartitionSpec(axes.vocab or None, axes.width or None)
    bias: Any = None if lazy.bias_v is None else PartitionSpec(axes.vocab or None)
    specs = LazyLogits(own, table, bias, lazy.softcap)
    results = PartitionSpec(), own, specs if gradients else None
    run = jax.shard_map(partial(function, axes=axes), in_specs=(specs, own, own), out_specs=results)
    total, hits, grads = run(replace(lazy, hidden_bkd=hidden), *others)
    grads = replace(grads, hidden_bkd=grads.hidden_bkd[:rows]) if gradients else None
    return total, hits[:rows], grads


def _summed(lazy: LazyLogits, targets, weights, *, axes: Axes, gradients: bool):
    """(total, hits, gradients of the total as a LazyLogits, or None), a piece of the predictions at a time."""
    table, bias = _cast(lazy)
    if axes.width:
        table = jax.lax.all_gather(table, axes.width, axis=1, tiled=True)
    rows, predictions = targets.shape
    width = min(predictions, max(1, CHUNK.get(platform(), CHUNK["other"]) // (rows * len(table))))
    pieces = [_cut(x, width) for x in (lazy.hidden_bkd, targets, weights)]
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, accumulator(x)), (table, bias) if gradients else (None, None))
    carry = _varying(jnp.zeros((), accumulator(table)), axes.batch), _varying(sums, axes.batch + axes.vocab)

    def body(carry, piece):
        return _piece(table, bias, lazy.softcap, axes, gradients, carry, *piece)

    if width == predictions:
        carry, given = body(carry, [x[0] for x in pieces])
    else:
        carry, given = jax.lax.scan(body, carry, pieces)
        given = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, -1, *x.shape[3:])[:, :predictions], given)
    (total, (grad_table, grad_bias)), (hits, grad_hidden) = carry, given
    total = _sum(total, axes.batch)
    if not gradients:
        return total, hits, None
    if axes.width:
        grad_table = jax.lax.psum_scatter(grad_table, axes.width, scatter_dimension=1, tiled=True)
    grad_table = _sum(grad_table, tuple(axis for axis in axes.batch if axis not in axes.width))
    grad_bias = None if bias is None else _sum(grad_bias, axes.batch)
    return total, hits, LazyLogits(grad_hidden, grad_table, grad_bias, lazy.softcap)


def _cut(x, width):
    """(b, k, ...) -> (pieces, b, width, ...), the last piece padded with zeros."""
    x = _filled(x, 1, -x.shape[1] % width)
    return jnp.moveaxis(x.reshape(x.shape[0], -1, width, *x.shape[2:]), 1, 0)


def _filled(x, axis, count):
    """x with `count` more zeros at the end of an axis."""
    return jnp.pad(x, [(0, count if i == axis else 0) for i in range(x.ndim)])


def _piece(table, bias, softcap, axes, gradients, carry, hidden, targets, weights):
    """((total, gradients of table and bias), (hits, gradient of the hidden states)), with this piece's added."""
    total, (grad_table, grad_bias) = carry
    scores = _scores(hidden, table, bias, softcap)
    start = jax.lax.axis_index(axes.vocab) * len(table) if axes.vocab else 0
    here = start + jnp.arange(len(table))  # the token ids of this device's rows
    right = targets[..., None] == here
    best = _greatest(jnp.max(scores, -1, keepdims=True), axes.vocab)
    norm = best + jnp.log(_sum(jnp.sum(jnp.exp(scores - best), -1, keepdims=True), axes.vocab))
    errors = norm[..., 0] - _sum(_at(scores, targets - start), axes.vocab)
    # Among equal logits the first counts. Where a weight is 0 the error does not count, even if it is NaN.
    first = _least(jnp.min(jnp.where(scores == best, here, jnp.iinfo(here.dtype).max), -1), axes.vocab)
    total += jnp.sum(jnp.where(weights > 0, errors * weights, 0.0))
    if not gradients:
        return (total, (None, None)), (first == targets, None)
    grads = jnp.exp(scores - norm) - right
    grads = grads if softcap is None else grads * (1.0 - (scores / softcap) ** 2)
    grads = jnp.where(weights[..., None] > 0, grads * weights[..., None], 0.0)
    grad_bias = None if bias is None else grad_bias + jnp.sum(grads, (0, 1))
    grads = grads.astype(hidden.dtype)
    grad_table += jnp.einsum("bkv,bkd->vd", grads, hidden, preferred_element_type=accumulator(hidden))
    grad_hidden = jnp.einsum("bkv,vd->bkd", grads, table, preferred_element_type=accumulator(hidden))
    return (total, (grad_table, grad_bias)), (first == targets, _sum(grad_hidden, axes.vocab).astype(hidden.dtype))


def _at(scores, numbers):
    """The logit of each prediction's token id, or 0 where another device has it."""
    here = (numbers >= 0) & (numbers < scores.shape[-1])
    found = jnp.take_along_axis(scores, jnp.where(here, numbers, 0)[..., None], -1)[..., 0]
    return jnp.where(here, found, 0.0)


def _scores(hidden, table, bias, softcap):
    scores = jnp.einsum("bkd,vd->bkv", hidden, table, preferred_element_type=accumulator(hidden))
    scores = scores if bias is None else scores + bias
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def _cast(lazy: LazyLogits):
    bias = lazy.bias_v
    dtype = lazy.hidden_bkd.dtype
    return lazy.table_vd.astype(dtype), None if bias is None else upcast(bias.astype(dtype))


def _sum(x, axes):
    return jax.lax.psum(x, axes) if axes else x


def _greatest(x, axes):
    return jax.lax.pmax(x, axes) if axes else x


def _least(x, axes):
    return jax.lax.pmin(x, axes) if axes else x


def _varying(tree, axes):
    """The tree, marked as different on each device, as the loop's results are."""
    return jax.tree.map(lambda x: jax.lax.pcast(x, axes, to="varying"), tree) if axes else tree
