"""Evaluation: every example exactly once, on any number of devices; metrics of the whole set, not means of batches."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from jaxft.metrics import Mean
from jaxft.metrics.units import EvalUnits


class Evaluation(NamedTuple):
    """What an evaluation set gives."""

    numbers: dict[str, float]
    figures: list[dict]  # jaxft/reports/figures.py; none for a task that has no picture
    units: EvalUnits | None  # what the task judges, and the files of its answers; None for one that does not judge


def evaluate(
    step: Callable, batches: Iterable[dict], put: Callable, task, evaluate_predictions: Callable | None = None
) -> Evaluation:
    """Metrics of one evaluation set, and the task's picture of it.

    `step(batch)` is the jitted evaluation step, with replicated results; `put` places a host batch on the devices.
    Sums are added in float64 on the host. Of each slot with a weight the task keeps what it needs, nothing more.
    `evaluate_predictions(kept)` gives the units, whose metrics are added.
    """
    return judged(task, *gather(step, batches, put), evaluate_predictions)


def gather(step: Callable, batches: Iterable[dict], put: Callable) -> tuple[dict[str, Mean], dict[str, np.ndarray]]:
    """The sums of an evaluation set, and its kept slots."""
    sums: dict[str, Mean] = {}
    kept: dict[str, list[np.ndarray]] = {}
    pending = None
    for batch in batches:
        results = step(put(batch))
        # The host looks at a batch's results while the devices run the next one.
        _take(pending, sums, kept)
        pending = results
    _take(pending, sums, kept)
    return sums, {name: np.concatenate(parts) for name, parts in kept.items()}


def judged(
    task, sums: dict[str, Mean], kept: dict[str, np.ndarray], evaluate_predictions: Callable | None = None
) -> Evaluation:
    """What the sums and the kept slots of a whole set say."""
    numbers = {**{name: mean.value() for name, mean in sums.items()}, **task.compute_metrics(sums, kept)}
    units = evaluate_predictions(kept) if evaluate_predictions is not None else None
    more = units.measure(np.arange(len(units.rows))) if units else {}
    figures = task.figures(kept)
    return Evaluation(numbers | more, [*figures, *(units.figures if units else ())], units)


def _take(results, sums, kept) -> None:
    if results is None:
        return
    new, slots = jax.device_get(results)
    for name, mean in new.items():
        total, count = float(mean.total), float(mean.count)
        old = sums.get(name, Mean(0.0, 0.0))
        sums[name] = Mean(old.total + total, old.count + count)
    slots = dict(slots)
    if not slots:
        return
    used = slots.pop("weights") > 0
    for name, values in slots.items():
        kept.setdefault(name, []).append(values[used])
