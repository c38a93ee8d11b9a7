"""Rows, and copies of them whose texts are changed at random."""

import re
from functools import partial

import numpy as np
import regex

from jaxft.config.component import config
from jaxft.config.ranges import Count, Fraction, Seed, problems_of
from jaxft.data.source import Rows
from jaxft.data.within import column_problems, open_within, source_problems
from jaxft.data.word_list import cased, read_synonyms
from jaxft.problems import UserError, raise_problems, truncated_repr

Synonyms = dict[str, tuple[str, list[str]]]  # as read_synonyms returns


@config
class Augmented:
    """The rows of `data`, then `copies` times all of them with words left out, exchanged and replaced.

    As in Wei and Zou 2019 ("EDA", section 2), whose random swap is here one of neighbours. Words are what white space
    parts. Labels and all columns but those named stay as they are. A copy depends on nothing but the seed, its row's
    number and its own: any row can be read at any time, and is the same every time.
    """

    data: object  # a source
    columns: tuple[str, ...] = ("text",)  # whose words are changed
    copies: Count = 1  # of each row, beside the row itself
    drop: Fraction = 0.1  # probability of each word to be left out; one word always stays
    swap: Fraction = 0.1  # probability of each word to change places with the next one
    replace: Fraction = 0.1  # probability of each word in `synonyms` to become one of its own
    synonyms: str | None = None  # file with the columns word and synonyms (data/word_list.py)
    seed: Seed = 0

    def problems(self) -> list[str]:
        return column_problems(self.columns) + source_problems(self.data, "data")

    def open(self) -> Rows:
        """Raises UserError; of a cell that holds no text, when a copy of its row is read."""
        raise_problems(problems_of(self))
        synonyms = read_synonyms(self.synonyms) if self.synonyms is not None else {}
        rows = open_within(self.data, "data", self.columns)
        count = len(rows) * (1 + self.copies)
        return Rows(f"{rows.name} (augmented)", rows.columns, rows.classes, count, partial(self._read, rows, synonyms))

    def _read(self, rows: Rows, synonyms: Synonyms, start: int, stop: int) -> list[dict]:
        read = []
        while start < stop:
            copy, first = divmod(start, len(rows))
            some = rows[first : first + stop - start]
            read += (
                [self._copy(row, first + i, copy, rows.name, synonyms) for i, row in enumerate(some)] if copy else some
            )
            start += len(some)
        return read

    def _copy(self, row: dict, number: int, copy: int, name: str, synonyms: Synonyms) -> dict:
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


def augment(text: str, rng, drop: float, swap: float, replace: float, synonyms: Synonyms) -> str:
    """`text` with words replaced, then exchanged, then left out, each with its probability.

    The white space around words stays; a word that is left out takes that before it along.
    """
    words, gaps = re.findall(r"\S+", text), re.split(r"\S+", text)
    if not words:
        return text
    replaces, which, swaps, drops = rng.random((4, len(words))).tolist()  # as lists, which are quicker to go through
    words = [
        _synonym(word, synonyms, choice) if chance < replace else word
        for word, chance, choice in zip(words, replaces, which, strict=True)
    ]
    words = _neighbours_swapped(words, [chance < swap for chance in swaps])
    first, *rest = [i for i, chance in enumerate(drops) if chance >= drop] or [drops.index(max(drops))]
    return gaps[0] + words[first] + "".join(gaps[i] + words[i] for i in rest) + gaps[-1]


def _synonym(word: str, synonyms: Synonyms, choice: float) -> str:
    """One of the word's synonyms, by a number of 0 to less than 1; punctuation around it stays."""
    # Accents and vowel signs are parts of the core: \W alone would take them for punctuation.
    before, core, after = regex.fullmatch(r"([^\w\p{M}]*)(.*?)([^\w\p{M}]*)", word, regex.DOTALL).groups()
    if core.casefold() not in synonyms:
        return word
    listed, others = synonyms[core.casefold()]
    return before + cased(others[int(choice * len(others))], core, listed) + after


def _neighbours_swapped(words: list[str], chosen: list[bool]) -> list[str]:
    """Each chosen word changes places with the next, unless it has just done so with the one before."""
    words = list(words)
    place = 0
    while place < len(words) - 1:
        if chosen[place]:
            words[place : place + 2] = words[place + 1], words[place]
        place += 2 if chosen[place] else 1
    return words
