"""What an evaluation says on request besides its metrics: their intervals, and metrics of classes and of parts."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from jaxft.evaluation.slices import LENGTH, length_name, lengths_of, parts, values_of
from jaxft.metrics.bootstrap import intervals
from jaxft.metrics.units import EvalUnits, KeptRows
from jaxft.problems import UserError, listed, suggest, truncated_repr

FEWEST = 100  # resamples; of fewer the ends of an interval are a few chance values


@dataclass(frozen=True)
class Breakdown:
    """What is asked for. Metrics of the sums alone, such as the loss, have no intervals and no parts."""

    resamples: int | None = None  # of the bootstrap
    by: str | None = None  # column whose values make the parts; "length": the number of tokens, in bins
    classes: bool = False  # precision, recall and F1 of each class

    @property
    def needs_rows(self) -> bool:
        return self.resamples is not None or self.by is not None

    def problems(self, task, sources: dict) -> list[str]:
        """What cannot be had; `sources` are the rows of each evaluation set."""
        kind, found = type(task).__name__, []
        if self.resamples is not None and self.resamples < FEWEST:
            found.append(f"--bootstrap={self.resamples}: expected {FEWEST} resamples or more, such as 1000")
        if self.classes and not task.has_class_metrics:
            found.append(f"--classes is not available for {kind}, which does not measure classes one by one")
        if self.by == LENGTH and task.groups_rows:
            found.append(f"--by={LENGTH} is not available for {kind}, whose questions have rows of several lengths")
        for name, rows in sources.items() if self.by not in (None, LENGTH) else ():
            found += _column_problems(f"config.evals.{name}", rows, self.by, task)
        return found

    def check_kept(self, task, step: Callable, batch) -> None:
        """Raises UserError where evaluation keeps sums only; nothing is computed."""
        if self.needs_rows and not jax.eval_shape(step, batch)[1]:
            kind = type(task).__name__
            raise UserError(f"--bootstrap and --by are not available for {kind}: it keeps sums over the set, not rows")

    def of(self, task, slots: dict, encoded, values: list | None, units: EvalUnits | None) -> dict[str, object]:
        """`interval`, by metric [low, high]; `lines`, JSON objects of the classes and of the parts.

        `slots` are the kept ones, `values` what `read` gave, `units` what the task itself judges, if it does.
        """
        lines = task.per_class_metrics(slots) if self.classes else []
        if not self.needs_rows:
            return {"lines": lines} if lines else {}
        units = units or _rows(task, slots, encoded.source)

        def interval(places):
            def measure(drawn):
                return units.measure(places[drawn])

            return {"interval": intervals(measure, len(places), self.resamples)} if self.resamples else {}

        for value, places in parts(values, units.rows) if self.by is not None else ():
            named = length_name(value) if self.by == LENGTH else value
            head = {"slice": {"column": self.by, "value": named}, "rows": len(places)}
            lines = [*lines, head | units.measure(places) | interval(places)]
        return interval(np.arange(len(units.rows))) | ({"lines": lines} if lines else {})

    def read(self, rows, encoded) -> list | None:
        """What makes the parts, by source row."""
        if self.by == LENGTH:
            return lengths_of(encoded, len(rows))
        return None if self.by is None else values_of(rows, self.by)


def _rows(task, slots: dict, source: np.ndarray) -> EvalUnits:
    kept = KeptRows(slots, source[slots["index"]])
    return EvalUnits(kept.rows, lambda drawn: task.compute_metrics({}, kept.take(drawn)))


def _column_problems(where: str, rows, name: str, task) -> list[str]:
    if name not in rows.columns:
        close = suggest(name, [*rows.columns, LENGTH])
        return [f"--by={name}: {where} has no such column.{close} Columns: {listed(rows.columns)}, and {LENGTH}"]
    try:
        values = values_of(rows, name)
    except UserError as error:
        return [f"--by={name}: {where}: {problem}" for problem in error.problems]
    first: dict[str, object] = {}
    for key, value in zip(task.group_key(rows), values, strict=True) if task.groups_rows else ():
        if (other := first.setdefault(key, value)) != value:
            return [
                f"--by={name}: {where}: rows of {truncated_repr(key)} have {truncated_repr(other)} and "
                f"{truncated_repr(value)}, expected one"
            ]
    return []
