"""Rows without those whose text came before, or is in another set as well."""

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import problems_of
from jaxft.data.source import Rows
from jaxft.data.within import cell_text, column_problems, open_within, source_problems
from jaxft.problems import UserError, raise_problems

log = logging.getLogger("jaxft")


@config
class Deduplicated:
    """The rows of `data` whose text is new; of equal ones the first is kept. How many went is said in the log.

    Texts are equal if they are after canonical caseless matching (Unicode 15, section 3.13, D145) and with any white
    space taken for one space. With the evaluation set in `against`, rows that it has too are left out, whose scores
    would otherwise be those of memory: Deduplicated(data=Data(path="train.csv"), against=Data(path="test.csv")).
    """

    data: object  # a source
    columns: tuple[str, ...] = ("text",)  # rows are equal if all of these are
    against: object | None = None  # a source with the same columns

    def problems(self) -> list[str]:
        found = column_problems(self.columns) + source_problems(self.data, "data")
        return found + (source_problems(self.against, "against") if self.against is not None else [])

    def open(self) -> Rows:
        """Reads all texts once. Raises UserError, also if no row is left."""
        raise_problems(problems_of(self))
        rows = open_within(self.data, "data", self.columns)
        kept, removed, differ = self._kept(rows)
        said = f"{rows.name}: {removed:,} of {len(rows):,} rows are duplicates by {', '.join(self.columns)}"
        if differ:
            counts = ", ".join(f"{name} ({count:,})" for name, count in differ.items())
            said += f"; they differ from the row that is kept in {counts}"
        log.info("%s", said)
        if self.against is not None:
            other = open_within(self.against, "against", self.columns)
            leaked = set(self._keys(other))
            held = np.array([key in leaked for key in kept], bool)
            log.info(
                "%s: %s of %s distinct rows are in %s too and left out",
                rows.name,
                f"{held.sum():,}",
                f"{len(kept):,}",
                other.name,
            )
            kept = {key: number for (key, number), out in zip(kept.items(), held, strict=True) if not out}
            if not kept:
                raise UserError(f"no row of {rows.name} is left: {other.name} has all of them")
        return _chosen(rows, np.fromiter(kept.values(), np.int64, len(kept)))

    def _kept(self, rows: Rows) -> tuple[dict[bytes, int], int, Counter]:
        """(key -> first row with it, how many rows have an earlier one, in how many of them each column differs)."""
        kept: dict[bytes, int] = {}
        removed, differ = 0, Counter()
        for number, key in enumerate(self._keys(rows)):
            first = kept.setdefault(key, number)
            if first == number:
                continue
            removed += 1
            one, other = rows[first], rows[number]
            differ.update(name for name in rows.columns if name not in self.columns and one[name] != other[name])
        return kept, removed, differ

    def _keys(self, rows: Rows) -> Iterator[bytes]:
        for number, row in enumerate(rows, 1):
            try:
                yield text_key([cell_text(row, name) for name in self.columns])
            except UserError as error:
                raise UserError([f"{rows.name}, row {number}: {problem}" for problem in error.problems]) from None


def text_key(texts: list[str]) -> bytes:
    """16 bytes that texts have in common if they differ in letter case and white space only."""
    # split() takes the separator for white space, so that no text holds it.
    joined = "\x1f".join(" ".join(_caseless(text).split()) for text in texts)
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _caseless(text: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())


def _chosen(rows: Rows, numbers: np.ndarray) -> Rows:
    """The rows of these numbers, int64 (kept,), which rise; neighbours are read together."""

    def read(start, stop):
        some = numbers[start:stop]
        runs = np.split(some, np.flatnonzero(np.diff(some) > 1) + 1) if len(some) else []
        return [row for run in runs for row in rows[int(run[0]) : int(run[-1]) + 1]]

    return Rows(f"{rows.name} (without duplicates)", rows.columns, rows.classes, len(numbers), read)
