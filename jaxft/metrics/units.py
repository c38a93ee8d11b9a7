"""What an evaluation set is made of: rows, or questions of several rows. Metrics can be had of any choice of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class EvalUnits(NamedTuple):
    """Rows, or what several of them belong to, and how to measure some of them.

    `measure(drawn)` gives the metrics of the units with these numbers, int64 (m,), of which some may come twice.
    """

    rows: np.ndarray  # int64 (n,): a source row of each unit
    measure: Callable[[np.ndarray], dict[str, float]]
    files: dict[str, object] = {}  # answers of the whole set, by the ending of a file's name
    figures: tuple[dict, ...] = ()  # of the whole set (jaxft/reports/figures.py)


class KeptRows:
    """The kept slots of a set by the row, or by anything else with a number, that each belongs to.

    rows    int64 (n,)  number of each that has slots, ascending
    """

    def __init__(self, slots: dict[str, np.ndarray], row: np.ndarray):
        """`slots` as evaluation keeps them (tasks/base.py, `eval_outputs`), `row` int64 (slots,) whose each is."""
        self.slots, self.order = slots, np.argsort(row, kind="stable")
        self.rows, self.counts = np.unique(row, return_counts=True)
        self.begins = np.cumsum(self.counts) - self.counts

    def take(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """The slots of those at `places` in `rows`, in this order; of one that comes twice, twice.

        `index` is made to differ between places, also of the same row; `place` int64 counts them from 0.
        """
        counts = self.counts[places]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        slots = self.order[np.repeat(self.begins[places], counts) + within]
        taken = {name: values[slots] for name, values in self.slots.items()}
        place = np.repeat(np.arange(len(places), dtype=np.int64), counts)
        return taken | {"index": taken["index"] + (place << 32), "place": place}
