"""A task with the user's own loss and metrics: config.loss and config.metrics."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config.functions import as_function
from jaxft.metrics import Mean
from jaxft.metrics.declared import Metric, neither
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.problems import UserError, truncated_repr
from jaxft.tasks.base import Task

FLOAT = jnp.floating
Number = bool | int | float | np.ndarray | np.generic | jax.Array  # what an own loss may return, with no axis
Loss = Callable[[Outputs, Batch], tuple[Any, Any]]


def with_functions(task: Task, loss: Any, metrics: Mapping[str, Any]) -> Task:
    """The task with other functions; the task itself if there are none.

    `loss(outputs, batch)` returns a pair of float32 numbers, (total, count), which add up over micro-batches and
    devices; training minimises total / count, and the task's own loss is still logged. It is compiled: it gets JAX
    arrays, `outputs` of models/model.py and `batch` of models/batch.py. Padding has weight 0 in `batch["weights"]`.

    Each of `metrics` gets NumPy arrays with one row for each prediction of an evaluation set: those that
    `Task.eval_outputs` names, such as `logits` and `targets`, and `index`, the number of the example. It returns a
    number.
    """
    if loss is None and not metrics:
        return task
    own_loss: Loss | None = None if loss is None else as_function(loss, "config.loss")
    own = {name: as_function(value, f"config.metrics[{name!r}]") for name, value in metrics.items()}
    if taken := sorted(own.keys() & task.metrics().keys()):
        raise UserError(f"config.metrics: {type(task).__name__} has a metric {taken[0]!r} already: use another name")
    base = type(task)

    class WithFunctions(base):  # type: ignore[misc, valid-type]  # whatever class the task has
        __slots__ = ()

        def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
            sums = base.loss(self, out, batch)
            return sums if own_loss is None else sums | {"weighted_loss": _pair(own_loss(out, batch))}

        def metrics(self) -> dict[str, Metric]:
            return {**base.metrics(self), **neither(*own)}

        def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
            if own and not outputs:
                raise UserError(f"config.metrics: {base.__name__} keeps no predictions from which to compute metrics")
            numbers = {name: _number(name, function(dict(outputs))) for name, function in own.items()}
            return base.compute_metrics(self, sums, outputs) | numbers

    WithFunctions.__name__ = base.__name__
    return WithFunctions(**{field.name: getattr(task, field.name) for field in dataclasses.fields(task)})  # type: ignore[arg-type]


def _pair(value: Any) -> Mean:
    """The pair in float32. Raises UserError for what is none, and for a total that has no gradient."""
    pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(item, Number) for item in value)
    if not pair or any(jnp.ndim(item) != 0 for item in value) or not jnp.issubdtype(jnp.result_type(value[0]), FLOAT):
        raise UserError(
            f"config.loss returned {_shown(value)}, expected a pair of numbers, (total, count), both sums over the "
            "batch, the total in floating point"
        )
    return Mean(*(jnp.asarray(item, jnp.float32) for item in value))


def _shown(value: Any) -> str:
    """The value, of traced arrays their types and shapes."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    return f"an array {jax.typeof(value).str_short()}" if isinstance(value, jax.Array) else truncated_repr(value)


def _number(name: str, value: Any) -> float:
    if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "biuf":
        raise UserError(f"config.metrics[{name!r}] returned {truncated_repr(value)}, expected a number")
    return float(value)
