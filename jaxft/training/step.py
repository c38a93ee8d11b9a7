"""One training step and one evaluation step: pure functions of state and batch, without input, output or clock."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxft.metrics import Mean, objective

Params = dict[str, jax.Array]


class TrainState(NamedTuple):
    """What changes from step to step. Frozen parameters travel beside it."""

    step: jax.Array  # int32: batches seen
    skipped: jax.Array  # int32: of these, how many changed nothing
    params: Params  # float32, only what trains
    opt: Any  # Optax's state for `params`


class StepMetrics(NamedTuple):
    """What one step reports, on the device until the next log point."""

    sums: dict[str, Mean]
    grad_norm: jax.Array  # global norm of the whole batch's gradient, before clipping
    tokens: jax.Array  # int32: tokens that are not padding
    learning_rate: jax.Array  # the rate of this update
    finite: jax.Array  # bool: loss and gradient are
    good: jax.Array  # bool: the update was made


class Gradient(NamedTuple):
    """What one batch says, before it is divided by anything."""

    values: Params  # float32, of the summed loss
    sums: dict[str, Mean]
    tokens: jax.Array  # int32: tokens that are not padding


def train_step(
    state: TrainState, frozen: Params, batch: dict[str, jax.Array], *, gradient: Callable, update: Callable
) -> tuple[TrainState, StepMetrics]:
    """One step: `batch_gradient` and `apply_gradient` with their options in place.

    Two functions, since an update does not depend on the batch's shape, and is compiled once for all of them.
    """
    return update(state, gradient(state.params, state.step, frozen, batch))


def batch_gradient(
    params: Params,
    step: jax.Array,
    frozen: Params,
    batch,
    *,
    loss,
    micro_batches,
    seed,
    prepare_batch=lambda batch: batch,
) -> Gradient:
    """Loss and gradient, summed over micro-batches.

    `loss(params, batch, key)` gives pairs; the total of their `objective` is differentiated. `prepare_batch` has seen
    the whole batch.
    """
    batch = prepare_batch(batch)
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
    sums, gradients = accumulate(params, frozen, batch, loss, micro_batches, key)
    return Gradient(gradients, sums, jnp.sum(batch["segments"] > 0))


def apply_gradient(
    state: TrainState,
    gradient: Gradient,
    *,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    clip: float | None = None,
) -> tuple[TrainState, StepMetrics]:
    """Divide once by the summed count, clip to the global norm `clip`, update.

    A step with a non-finite loss or gradient, or with nothing to learn, leaves parameters and optimizer as they are and
    counts as skipped.
    """
    sums, (total, count) = gradient.sums, objective(gradient.sums)
    # Sum before dividing: a mean of means is wrong when micro-batches hold different numbers of tokens.
    share = 1.0 / jnp.where(count > 0, count, 1.0)
    norm = optax.tree.norm(gradient.values) * share
    # One factor for both: each division would be a pass of its own over all gradients.
    factor = share if clip is None else share * jnp.minimum(1.0, clip / norm)
    gradients = jax.tree.map(lambda g: g * factor, gradient.values)
    finite = jnp.isfinite(total) & jnp.isfinite(norm)
    good = finite & (count > 0)
    updates, opt = tx.update(gradients, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    params, opt = jax.tree.map(lambda new, old: jnp.where(good, new, old), (params, opt), (state.params, state.opt))
    rate = schedule(state.step - state.skipped)  # of updates made, as Optax counts them in its own state
    state = TrainState(state.step + 1, state.skipped + 1 - good.astype(jnp.int32), params, opt)
    return state, StepMetrics(sums, norm, gradient.tokens, jnp.float32(rate), finite, good)


def accumulate(params, frozen, batch, loss, micro_batches, key):
    """Summed pairs and the gradient of the summed loss over all micro-batches, float32."""

    def total(params, batch, key):
        sums = loss({**params, **frozen}, batch, key)
        return objective(sums).total, sums

    gradient = jax.grad(total, has_aux=True)
    if micro_batches == 1:  # no scan: it would keep a second copy of the gradient
        gradients, sums = gradient(params, batch, key)
        return sums, gradients

    def body(carry, piece):
        number, batch = piece
        gradients, sums = gradient(params, batch, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, carry, (gradients, sums)), None

    pieces = jax.tree.map(lambda x: split_rows(x, micro_batches), batch)
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], pieces), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (gradients, sums), _ = jax.lax.scan(body, zeros, (jnp.arange(micro_batches), pieces))
    return sums, gradients


def split_rows(x: jax.Array, pieces: int) -> jax.Array:
    """(rows, ...) -> (pieces, rows / pieces, ...), taking every `pieces`-th row.

    Rows are sharded in contiguous runs, so each device finds its share of every piece among its own rows.
    """
    return x.reshape(x.shape[0] // pieces, pieces, *x.shape[1:]).swapaxes(0, 1)


def eval_step(params: Params, frozen: Params, batch, *, forward, task) -> tuple[dict[str, Mean], dict[str, jax.Array]]:
    """Summed pairs of a batch, and what the task keeps of each slot, with `weights` that say of which slots, and the
    number of its example."""
    out = forward({**params, **frozen}, batch, None)
    kept = task.eval_outputs(out, batch)
    return task.loss(out, batch), {"weights": batch["weights"], "index": batch["index"], **kept} if kept else {}
