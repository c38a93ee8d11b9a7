"""Folds of a source's rows, for cross-validation."""

from typing import Annotated

import numpy as np

from jaxft.config.component import config
from jaxft.config.protocols import Source
from jaxft.config.ranges import INT, NonNegativeInt, Range, Seed, problems_of
from jaxft.data.row_sequence import Rows, rows_at
from jaxft.data.within import open_within, source_problems
from jaxft.problems import UserError, raise_problems


@config
class Fold:
    """One fold of the rows of `data`, or all the others.

    The rows are shuffled by `seed` and dealt out to the folds in turn, so that the folds of one source and seed hold
    each row exactly once, and their sizes differ by one row at most. Rows keep their order.
    """

    data: Source  # the rows
    folds: Annotated[int, Range(2, INT)]  # into how many parts they are split
    fold: NonNegativeInt  # which of them, from 0
    held_out: bool = False  # the rows of this fold; False: those of all the others
    seed: Seed = 0  # of the shuffle

    def problems(self) -> list[str]:
        found = source_problems(self.data, "data")
        if self.fold >= self.folds:
            found.append(f"fold is {self.fold}, expected less than folds, {self.folds}")
        return found

    def open(self) -> Rows:
        """Raises UserError, also if there are fewer rows than folds."""
        raise_problems(problems_of(self))
        return self.of(open_within(self.data, "data", ()))

    def of(self, rows: Rows) -> Rows:
        """The part of `rows`, those of `data`. Raises UserError if there are fewer rows than folds."""
        if len(rows) < self.folds:
            raise UserError(f"{rows.name} has {len(rows):,} rows for {self.folds:,} folds: use fewer folds")
        of_row = np.empty(len(rows), np.int64)
        of_row[np.random.default_rng(self.seed).permutation(len(rows))] = np.arange(len(rows)) % self.folds
        numbers = np.flatnonzero((of_row == self.fold) == self.held_out)
        part = f"fold {self.fold + 1} of {self.folds}"
        return rows_at(rows, numbers, f"{rows.name} ({part if self.held_out else f'without {part}'})")
