"""Rows with empty texts in some columns, for baselines that do not see them."""

from jaxft.config.component import config
from jaxft.config.protocols import Source
from jaxft.config.ranges import problems_of
from jaxft.data.example import Row
from jaxft.data.row_sequence import Rows
from jaxft.data.within import column_problems, open_within, source_problems
from jaxft.problems import UserError, raise_problems, truncated_repr


@config
class Blanked:
    """The rows of `data` with an empty text in the named columns.

    For baselines of pair tasks that see only one text, such as the hypothesis without its premise (Poliak et al. 2018,
    "Hypothesis Only Baselines in Natural Language Inference"): a score above that of the most frequent class shows that
    this text alone predicts the label. Use it for training and evaluation data:
    Blanked(data=Data(path="train.csv"), columns=("premise",)).
    """

    data: Source  # the rows
    columns: tuple[str, ...]  # columns to empty

    def problems(self) -> list[str]:
        return column_problems(self.columns) + source_problems(self.data, "data")

    def open(self) -> Rows:
        """Raises UserError; for a cell that is not text, only when its row is read."""
        raise_problems(problems_of(self))
        rows = open_within(self.data, "data", self.columns)
        name = f"{rows.name} (without {', '.join(self.columns)})"

        def read(start: int, stop: int) -> list[Row]:
            return [
                self._blanked(row, f"{name}, row {number}") for number, row in enumerate(rows[start:stop], start + 1)
            ]

        return Rows(name, rows.columns, rows.classes, len(rows), read, rows.mixed)

    def _blanked(self, row: Row, place: str) -> Row:
        for column in self.columns:
            if not isinstance(row[column], str | None):
                raise UserError(f"{place}: column {column!r} holds {truncated_repr(row[column])}, expected a text")
        return row | dict.fromkeys(self.columns, "")
