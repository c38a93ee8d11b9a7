"""Evaluation: every example exactly once, on any number of devices; metrics of the whole set, not means of batches."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft.data.encoded import Arrays
from jaxft.metrics import Mean
from jaxft.metrics.units import EvalUnits
from jaxft.models.batch import Batch
from jaxft.tasks.base import Task

EvalResults = tuple[dict[str, Mean], dict[str, jax.Array]]  # of an evaluation step: sums, and outputs of predictions


class Evaluation(NamedTuple):
    """The results of an evaluation set."""

    numbers: dict[str, float]
    figures: list[dict[str, Any]]  # reports/figures.py
    units: EvalUnits | None  # of a task with `evaluate_predictions`


def evaluate(
    step: Callable[[Batch], EvalResults],
    batches: Iterable[Arrays],
    put: Callable[[Arrays], Batch],
    task: Task,
    evaluate_predictions: Callable[[dict[str, np.ndarray]], EvalUnits] | None = None,
) -> Evaluation:
    """Evaluates one set.

    `step` is the jitted evaluation step, with replicated results; `put` places a host batch on the devices.
    `evaluate_predictions(outputs)` returns the units of evaluation, whose metrics are added to those of the task.
    """
    return finalize(task, *accumulate(step, batches, put), evaluate_predictions)


def accumulate(
    step: Callable[[Batch], EvalResults], batches: Iterable[Arrays], put: Callable[[Arrays], Batch]
) -> tuple[dict[str, Mean], dict[str, np.ndarray]]:
    """(sums over all batches, added in float64 on the host; outputs of all predictions with a weight)."""
    sums: dict[str, Mean] = {}
    kept: dict[str, list[np.ndarray]] = {}
    pending: EvalResults | None = None
    for batch in batches:
        results = step(put(batch))
        # The host handles the results of a batch while the devices compute the next one.
        _add(pending, sums, kept)
        pending = results
    _add(pending, sums, kept)
    return sums, {name: np.concatenate(parts) for name, parts in kept.items()}


def finalize(
    task: Task,
    sums: dict[str, Mean],
    outputs: dict[str, np.ndarray],
    evaluate_predictions: Callable[[dict[str, np.ndarray]], EvalUnits] | None = None,
) -> Evaluation:
    """Metrics and figures, from the sums and the outputs of a whole set."""
    numbers = {**{name: mean.value() for name, mean in sums.items()}, **task.compute_metrics(sums, outputs)}
    figures = list(task.figures(outputs))
    if evaluate_predictions is None:
        return Evaluation(numbers, figures, None)
    units = evaluate_predictions(outputs)
    return Evaluation(numbers | units.measure(np.arange(len(units.rows))), [*figures, *units.figures], units)


def _add(results: EvalResults | None, sums: dict[str, Mean], kept: dict[str, list[np.ndarray]]) -> None:
    if results is None:
        return
    new, outputs = jax.device_get(results)
    for name, mean in new.items():
        total, count = np.float64(mean.total), np.float64(mean.count)
        old = sums.get(name)
        sums[name] = Mean(total, count) if old is None else Mean(old.total + total, old.count + count)
    used = outputs["weights"] > 0 if outputs else None
    for name, values in outputs.items():
        if name != "weights":
            kept.setdefault(name, []).append(values[used])
