"""One training step and one evaluation step, as pure functions of state and batch."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxft.metrics import Mean, objective
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.models.params import Params
from jaxft.tasks.base import Task

Loss = Callable[[Params, Batch, jax.Array | None], dict[str, Mean]]  # (params, batch, key) -> pairs to be summed
T = TypeVar("T")


class TrainState(NamedTuple, Generic[T]):
    """What changes from step to step; frozen parameters are not part of it. A leaf T is an array, its abstract shape,
    or its placement."""

    step: T  # int32: batches seen
    skipped: T  # int32: how many of these changed nothing
    params: dict[str, T]  # float32, the trained parameters by path
    opt: Any  # Optax's state for `params`, a pytree of T


class StepMetrics(NamedTuple):
    """The metrics of one step; on the device until the next log point."""

    sums: dict[str, Mean]
    grad_norm: jax.Array  # global norm of the whole batch's gradient, before clipping
    tokens: jax.Array  # int32: tokens that are not padding
    learning_rate: jax.Array  # of this update
    finite: jax.Array  # bool: whether loss and gradient are
    good: jax.Array  # bool: whether the update was made


class Gradient(NamedTuple):
    """Sums over a batch, not yet divided by a count."""

    values: Params  # float32, of the summed loss
    sums: dict[str, Mean]
    tokens: jax.Array  # int32: tokens that are not padding


def train_step(
    state: TrainState[jax.Array],
    frozen: Params,
    batch: Batch,
    *,
    gradient: Callable[[Params, jax.Array, Params, Batch], Gradient],
    update: Callable[[TrainState[jax.Array], Gradient], tuple[TrainState[jax.Array], StepMetrics]],
) -> tuple[TrainState[jax.Array], StepMetrics]:
    """One step. `gradient` and `update` are `batch_gradient` and `apply_gradient` with their options bound.

    These are two programs because the update does not depend on the batch's shape: it is compiled once.
    """
    return update(state, gradient(state.params, state.step, frozen, batch))


def batch_gradient(
    params: Params,
    step: jax.Array,
    frozen: Params,
    batch: Batch,
    *,
    loss: Loss,
    micro_batches: int,
    seed: int,
    prepare_batch: Callable[[Batch], Batch] = lambda batch: batch,
) -> Gradient:
    """Loss and gradient, summed over micro-batches.

    The total of `objective(loss(...))` is differentiated. `prepare_batch` is applied to the whole batch before it is
    split into micro-batches.
    """
    batch = prepare_batch(batch)
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
    sums, gradients = accumulate(params, frozen, batch, loss, micro_batches, key)
    return Gradient(gradients, sums, jnp.sum(batch["segments"] > 0))


def apply_gradient(
    state: TrainState[jax.Array],
    gradient: Gradient,
    *,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    clip: float | jax.Array | None = None,
) -> tuple[TrainState[jax.Array], StepMetrics]:
    """Divides once by the summed count, clips to the global norm `clip`, and updates.

    A step whose loss or gradient is not finite, or whose count is 0, changes neither parameters nor optimizer and
    counts as skipped.
    """
    sums, (total, count) = gradient.sums, objective(gradient.sums)
    # Divide once, after summing: a mean of means is wrong if micro-batches hold different numbers of tokens.
    share = 1.0 / jnp.where(count > 0, count, 1.0)
    norm = optax.tree.norm(gradient.values) * share
    # One factor for mean and clipping: each would be a pass over all gradients.
    factor = share if clip is None else share * jnp.minimum(1.0, clip / norm)
    gradients = jax.tree.map(lambda g: g * factor, gradient.values)
    finite = jnp.isfinite(total) & jnp.isfinite(norm)
    good = finite & (count > 0)
    updates, opt = tx.update(gradients, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    params, opt = jax.tree.map(lambda new, old: jnp.where(good, new, old), (params, opt), (state.params, state.opt))
    rate = schedule(state.step - state.skipped)  # by the updates made, as Optax counts them in its state
    state = TrainState(state.step + 1, state.skipped + 1 - good.astype(jnp.int32), params, opt)
    return state, StepMetrics(sums, norm, gradient.tokens, jnp.float32(rate), finite, good)


def accumulate(
    params: Params, frozen: Params, batch: Batch, loss: Loss, micro_batches: int, key: jax.Array
) -> tuple[dict[str, Mean], Params]:
    """(pairs, gradient of the total of their `objective`), float32, summed over all micro-batches."""

    def total(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array | float, dict[str, Mean]]:
        sums = loss({**params, **frozen}, batch, key)
        return objective(sums).total, sums

    gradient = jax.grad(total, has_aux=True)
    if micro_batches == 1:  # a scan would hold a second copy of the gradient
        gradients, sums = gradient(params, batch, key)
        return sums, gradients

    def body(carry: tuple[Params, dict[str, Mean]], xs: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        number, micro_batch = xs
        gradients, sums = gradient(params, micro_batch, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, carry, (gradients, sums)), None

    split = jax.tree.map(lambda x: split_rows(x, micro_batches), batch)
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], split), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (gradients, sums), _ = jax.lax.scan(body, zeros, (jnp.arange(micro_batches), split))
    return sums, gradients


def split_rows(x: jax.Array, micro_batches: int) -> jax.Array:
    """(rows, ...) -> (micro_batches, rows / micro_batches, ...), each with every `micro_batches`-th row.

    Rows are sharded in contiguous blocks, so that each device has its part of every micro-batch among its own rows.
    """
    return x.reshape(x.shape[0] // micro_batches, micro_batches, *x.shape[1:]).swapaxes(0, 1)


def eval_step(
    params: Params,
    frozen: Params,
    batch: Batch,
    *,
    forward: Callable[[Params, Batch, jax.Array | None], Outputs],
    task: Task,
) -> tuple[dict[str, Mean], dict[str, jax.Array]]:
    """(summed pairs of a batch, `Task.eval_outputs` with the `weights` and the `index` of the predictions)."""
    out = forward({**params, **frozen}, batch, None)
    outputs = task.eval_outputs(out, batch)
    return task.loss(out, batch), {"weights": batch["weights"], "index": batch["index"], **outputs} if outputs else {}
