"""Rows whose texts are emptied in some columns: what a model knows without them."""

from jaxft.config.component import config
from jaxft.config.ranges import problems_of
from jaxft.data.source import Rows
from jaxft.data.within import column_problems, open_within, source_problems
from jaxft.problems import UserError, raise_problems, truncated_repr


@config
class Blanked:
    """The rows of `data` with an empty text in the named columns.

    For the baseline of pair tasks that sees one text only, such as the hypothesis without its premise (Poliak et al.
    2018, "Hypothesis Only Baselines in Natural Language Inference"): what it scores above the commonest class, the
    other text gives away. Training and evaluation data are both to be blanked:
    Blanked(data=Data(path="train.csv"), columns=("premise",)).
    """

    data: object  # a source
    columns: tuple[str, ...]

    def problems(self) -> list[str]:
        return column_problems(self.columns) + source_problems(self.data, "data")

    def open(self) -> Rows:
        """Raises UserError; of a cell that holds no text, when its row is read."""
        raise_problems(problems_of(self))
        rows = open_within(self.data, "data", self.columns)
        name = f"{rows.name} (without {', '.join(self.columns)})"

        def read(start, stop):
            return [
                self._blanked(row, f"{name}, row {number}") for number, row in enumerate(rows[start:stop], start + 1)
            ]

        return Rows(name, rows.columns, rows.classes, len(rows), read)

    def _blanked(self, row: dict, place: str) -> dict:
        for column in self.columns:
            if not isinstance(row[column], str | None):
                raise UserError(
                    f"{place}: column {column!r} holds {truncated_repr(row[column])}, expected a text to leave out"
                )
        return row | dict.fromkeys(self.columns, "")
