"""Removal of duplicate rows, within a source and between two sources."""

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np

from jaxft.config.component import config
from jaxft.config.protocols import Source
from jaxft.config.ranges import problems_of
from jaxft.data.row_sequence import Rows, rows_at
from jaxft.data.within import cell_text, column_problems, open_within, source_problems
from jaxft.problems import UserError, raise_problems

log = logging.getLogger("jaxft")


@config
class Deduplicated:
    """The rows of `data` without duplicates: the first of equal rows stays. The log says how many are removed.

    Texts are compared by canonical caseless matching (Unicode 15, section 3.13, D145), with all white space as one
    space. `against` may be an evaluation set: rows of `data` that are in it are removed, since a model could memorize
    them: Deduplicated(data=Data(path="train.csv"), against=Data(path="test.csv")).
    """

    data: Source  # the rows
    columns: tuple[str, ...] = ("text",)  # rows are equal if all of these are
    against: Source | None = None  # a source with the same columns

    def problems(self) -> list[str]:
        found = column_problems(self.columns) + source_problems(self.data, "data")
        return found + (source_problems(self.against, "against") if self.against is not None else [])

    def open(self) -> Rows:
        """Reads all texts once. Raises UserError, also if no row is left."""
        raise_problems(problems_of(self))
        rows = open_within(self.data, "data", self.columns)
        first_rows, removed, differ = self._first_rows(rows)
        message = f"{rows.name}: {removed:,} of {len(rows):,} rows are duplicates by {', '.join(self.columns)}"
        if differ:
            counts = ", ".join(f"{name} ({count:,})" for name, count in differ.items())
            message += f"; they differ from the first row in {counts}"
        log.info("%s", message)
        if self.against is not None:
            other = open_within(self.against, "against", self.columns)
            leaked = set(self._keys(other))
            shared = np.array([key in leaked for key in first_rows], bool)
            log.info(
                "%s: %s of %s distinct rows are also in %s and removed",
                rows.name,
                f"{shared.sum():,}",
                f"{len(first_rows):,}",
                other.name,
            )
            pairs = zip(first_rows.items(), shared, strict=True)
            first_rows = {key: number for (key, number), removed in pairs if not removed}
            if not first_rows:
                raise UserError(f"no row of {rows.name} is left: all of them are in {other.name}. Use other data")
        numbers = np.fromiter(first_rows.values(), np.int64, len(first_rows))
        return rows_at(rows, numbers, f"{rows.name} (without duplicates)")

    def _first_rows(self, rows: Rows) -> tuple[dict[bytes, int], int, Counter[str]]:
        """(key -> first row with it, number of duplicates, in how many of these each column differs)."""
        first_rows: dict[bytes, int] = {}
        removed = 0
        differ: Counter[str] = Counter()
        for number, key in enumerate(self._keys(rows)):
            first = first_rows.setdefault(key, number)
            if first == number:
                continue
            removed += 1
            one, other = rows[first], rows[number]
            differ.update(name for name in rows.columns if name not in self.columns and one[name] != other[name])
        return first_rows, removed, differ

    def _keys(self, rows: Rows) -> Iterator[bytes]:
        for number, row in enumerate(rows, 1):
            try:
                yield text_key([cell_text(row, name) for name in self.columns])
            except UserError as error:
                raise UserError([f"{rows.name}, row {number}: {problem}" for problem in error.problems]) from None


def text_key(texts: list[str]) -> bytes:
    """A hash of 16 bytes that is equal for texts that differ only in letter case and white space."""
    # split() treats the separator as white space, so that no text contains it.
    joined = "\x1f".join(" ".join(_caseless(text).split()) for text in texts)
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _caseless(text: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
