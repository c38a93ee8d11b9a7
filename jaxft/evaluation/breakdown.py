"""What an evaluation computes on request: confidence intervals, and metrics of classes and of slices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxft.data.encoded import Encoded
from jaxft.data.source import Rows
from jaxft.evaluation.evaluate import EvalResults
from jaxft.evaluation.slices import LENGTH, length_name, lengths_of, slices, values_of
from jaxft.metrics.bootstrap import intervals
from jaxft.metrics.units import EvalUnits, GroupedOutputs
from jaxft.models.batch import Batch
from jaxft.problems import UserError, listed, suggest, truncated_repr
from jaxft.tasks.base import Task

MIN_RESAMPLES = 100  # with fewer, the ends of an interval depend on a few chance values


@dataclass(frozen=True)
class Breakdown:
    """What to compute. Metrics that need the sums of the whole set, such as the loss, have no intervals or slices."""

    resamples: int | None = None  # of the bootstrap
    by: str | None = None  # column whose values define the slices; "length": number of tokens, in bins
    classes: bool = False  # precision, recall and F1 of each class

    @property
    def needs_rows(self) -> bool:
        """Whether the outputs of single rows are needed, not only sums."""
        return self.resamples is not None or self.by is not None

    def problems(self, task: Task, sources: Mapping[str, Rows]) -> list[str]:
        """Why some of it is not available; `sources` are the rows of each evaluation set."""
        kind, found = type(task).__name__, list[str]()
        if self.resamples is not None and self.resamples < MIN_RESAMPLES:
            found.append(f"--bootstrap={self.resamples}: expected {MIN_RESAMPLES} resamples or more, such as 1000")
        if self.classes and not task.has_class_metrics:
            found.append(f"--classes is not available for {kind}, which does not measure classes one by one")
        if self.by == LENGTH and task.groups_rows:
            found.append(f"--by={LENGTH} is not available for {kind}, whose questions have rows of several lengths")
        if self.by is not None and self.by != LENGTH:
            for name, rows in sources.items():
                found += _column_problems(f"config.evals.{name}", rows, self.by, task)
        return found

    def check_outputs(self, task: Task, step: Callable[[Batch], EvalResults], batch: Batch) -> None:
        """Raises UserError if rows are needed and the task keeps sums only. Traces `step`, without running it."""
        if self.needs_rows and not jax.eval_shape(step, batch)[1]:
            kind = type(task).__name__
            raise UserError(f"--bootstrap and --by are not available for {kind}: it keeps sums over the set, not rows")

    def compute(
        self,
        task: Task,
        outputs: dict[str, np.ndarray],
        encoded: Encoded,
        values: list[Any] | None,
        units: EvalUnits | None,
    ) -> dict[str, Any]:
        """`interval`, metric -> [low, high]; `lines`, JSON objects for the classes and the slices.

        `values` is the result of `read`, `units` that of `Task.evaluate_predictions`, if the task has it.
        """
        lines: list[dict[str, Any]] = task.per_class_metrics(outputs) if self.classes else []
        if not self.needs_rows:
            return {"lines": lines} if lines else {}
        measured = units or _rows(task, outputs, encoded.source)

        def interval(places: np.ndarray) -> dict[str, Any]:
            def measure(drawn: np.ndarray) -> dict[str, float]:
                return measured.measure(places[drawn])

            return {"interval": intervals(measure, len(places), self.resamples)} if self.resamples else {}

        for value, places in slices(values, measured.rows) if values is not None else ():
            named = length_name(value) if self.by == LENGTH else value
            head: dict[str, Any] = {"slice": {"column": self.by, "value": named}, "rows": len(places)}
            lines = [*lines, head | measured.measure(places) | interval(places)]
        return interval(np.arange(len(measured.rows))) | ({"lines": lines} if lines else {})

    def read(self, rows: Rows, encoded: Encoded) -> list[Any] | None:
        """For each source row the value that decides its slice; None without slices."""
        if self.by == LENGTH:
            return lengths_of(encoded, len(rows))
        return None if self.by is None else values_of(rows, self.by)


def _rows(task: Task, outputs: dict[str, np.ndarray], source: np.ndarray) -> EvalUnits:
    kept = GroupedOutputs(outputs, source[outputs["index"]])
    return EvalUnits(kept.rows, lambda drawn: task.compute_metrics({}, kept.take(drawn)))


def _column_problems(where: str, rows: Rows, name: str, task: Task) -> list[str]:
    if name not in rows.columns:
        close = suggest(name, [*rows.columns, LENGTH])
        return [f"--by={name}: {where} has no such column.{close} Columns: {listed(rows.columns)}, and {LENGTH}"]
    try:
        values = values_of(rows, name)
    except UserError as error:
        return [f"--by={name}: {where}: {problem}" for problem in error.problems]
    first: dict[str, Any] = {}
    for key, value in zip(task.group_key(rows), values, strict=True) if task.groups_rows else ():
        if (other := first.setdefault(key, value)) != value:
            return [
                f"--by={name}: {where}: rows of {truncated_repr(key)} have {truncated_repr(other)} and "
                f"{truncated_repr(value)}, expected one"
            ]
    return []
