"""Data augmentation: rows, and copies of them with random changes of their texts."""

import re
from functools import partial

import numpy as np
import regex

from jaxft.config.component import config
from jaxft.config.protocols import Source
from jaxft.config.ranges import Count, Fraction, Seed, problems_of
from jaxft.data.example import Row
from jaxft.data.row_sequence import Rows
from jaxft.data.within import column_problems, open_within, source_problems
from jaxft.data.word_list import cased, read_synonyms
from jaxft.problems import UserError, raise_problems, truncated_repr

Synonyms = dict[str, tuple[str, list[str]]]  # case-folded word -> (the word as it is listed, its synonyms)

AROUND = regex.compile(r"([^\w\p{M}]*)(.*?)([^\w\p{M}]*)", regex.DOTALL)  # punctuation, core of a word, punctuation


@config
class Augmented:
    """The rows of `data`, then `copies` times all of them with words deleted, swapped and replaced.

    As in EDA (Wei and Zou 2019, section 2), except that only neighbouring words are swapped. Words are separated by
    white space. Only the named columns change. A copy depends only on the seed, the number of its row and the number of
    the copy: it is the same whenever it is read.
    """

    data: Source  # the rows
    columns: tuple[str, ...] = ("text",)  # columns to change
    copies: Count = 1  # of each row, in addition to the row itself
    drop: Fraction = 0.1  # probability of each word to be deleted; one word always stays
    swap: Fraction = 0.1  # probability of each word to be swapped with the next one
    replace: Fraction = 0.1  # probability of each word in `synonyms` to be replaced by one of its synonyms
    synonyms: str | None = None  # file with the columns word and synonyms (data/word_list.py)
    seed: Seed = 0  # of the changes

    def problems(self) -> list[str]:
        return column_problems(self.columns) + source_problems(self.data, "data")

    def open(self) -> Rows:
        """Raises UserError; for a cell that is not text, only when a copy of its row is read."""
        raise_problems(problems_of(self))
        synonyms = read_synonyms(self.synonyms) if self.synonyms is not None else {}
        rows = open_within(self.data, "data", self.columns)
        count = len(rows) * (1 + self.copies)
        return Rows(
            f"{rows.name} (augmented)",
            rows.columns,
            rows.classes,
            count,
            partial(self._read, rows, synonyms),
            rows.mixed,
        )

    def _read(self, rows: Rows, synonyms: Synonyms, start: int, stop: int) -> list[Row]:
        read: list[Row] = []
        while start < stop:
            copy, first = divmod(start, len(rows))
            some = rows[first : first + stop - start]
            read += (
                [self._copy(row, first + i, copy, rows.name, synonyms) for i, row in enumerate(some)] if copy else some
            )
            start += len(some)
        return read

    def _copy(self, row: Row, number: int, copy: int, name: str, synonyms: Synonyms) -> Row:
        rng = np.random.default_rng((self.seed, number, copy))
        changed = {}
        for column in self.columns:
            value = row[column]
            if not isinstance(value, str | int | float | None):
                found = f"{name}, row {number + 1}: column {column!r} holds {truncated_repr(value)}"
                raise UserError(f"{found}, expected a text to augment")
            if isinstance(value, str):
                changed[column] = augment(value, rng, self.drop, self.swap, self.replace, synonyms)
        return row | changed


def augment(text: str, rng: np.random.Generator, drop: float, swap: float, replace: float, synonyms: Synonyms) -> str:
    """`text` with words replaced, then swapped, then deleted, each with its probability.

    White space stays, except that before a deleted word.
    """
    words, gaps = re.findall(r"\S+", text), re.split(r"\S+", text)
    if not words:
        return text
    replaces, which, swaps, drops = rng.random((4, len(words))).tolist()  # lists are faster to iterate
    words = [
        _synonym(word, synonyms, choice) if chance < replace else word
        for word, chance, choice in zip(words, replaces, which, strict=True)
    ]
    words = _neighbours_swapped(words, [chance < swap for chance in swaps])
    first, *rest = [i for i, chance in enumerate(drops) if chance >= drop] or [drops.index(max(drops))]
    return gaps[0] + words[first] + "".join(gaps[i] + words[i] for i in rest) + gaps[-1]


def _synonym(word: str, synonyms: Synonyms, choice: float) -> str:
    """One of the word's synonyms, chosen by a number in [0, 1); punctuation around it stays."""
    # Accents and vowel signs (\p{M}) belong to the core, although \W matches them.
    before, core, after = AROUND.fullmatch(word).groups()
    if core.casefold() not in synonyms:
        return word
    listed, others = synonyms[core.casefold()]
    return before + cased(others[int(choice * len(others))], core, listed) + after


def _neighbours_swapped(words: list[str], chosen: list[bool]) -> list[str]:
    """Each chosen word is swapped with the next, unless it was just swapped with the one before."""
    words = list(words)
    place = 0
    while place < len(words) - 1:
        if chosen[place]:
            words[place : place + 2] = words[place + 1], words[place]
        place += 2 if chosen[place] else 1
    return words
