"""The units that an evaluation set is made of: rows, or questions of several rows. Any subset of them has metrics."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

EvalOutputs = Mapping[str, np.ndarray]  # what Task.eval_outputs gives, of the predictions of a set, and their `index`


class EvalUnits(NamedTuple):
    """Units of evaluation, and how to compute the metrics of a subset.

    `measure(drawn)` gives the metrics of the units with these numbers, int64 (m,), which may repeat.
    """

    rows: np.ndarray  # int64 (n,) a source row of each unit
    measure: Callable[[np.ndarray], dict[str, float]]
    files: Mapping[str, object] = {}  # answers of the whole set: ending of a file's name -> JSON value
    figures: tuple[dict[str, Any], ...] = ()  # of the whole set (jaxft/reports/figures.py)


class GroupedOutputs:
    """The outputs of a set, grouped by the row that each prediction belongs to, or by any other number.

    rows    int64 (n,)  the numbers of the groups, ascending
    """

    def __init__(self, outputs: EvalOutputs, row: np.ndarray):
        """`row` int64 (predictions,) is the group of each prediction."""
        self.outputs, self.order = outputs, np.argsort(row, kind="stable")
        self.rows, self.counts = np.unique(row, return_counts=True)
        self.begins = np.cumsum(self.counts) - self.counts

    def take(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of the groups at `places` in `rows`, in this order; repeated places are repeated.

        `index` gets different values for different places, even if they are of the same row; `place` int64
        (predictions,) is the position in `places`.
        """
        counts = self.counts[places]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = self.order[np.repeat(self.begins[places], counts) + within]
        taken = {name: values[chosen] for name, values in self.outputs.items()}
        place = np.repeat(np.arange(len(places), dtype=np.int64), counts)
        return taken | {"index": taken["index"] + (place << 32), "place": place}
