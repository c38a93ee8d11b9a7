"""Pairs of terms, he and she, and texts in which each has become the other."""

from collections.abc import Iterable

import regex

from jaxft.data.word_list import cased, read_pairs
from jaxft.problems import SHOWN, raise_problems, truncated_repr


def read_swaps(path: str) -> "Swaps":
    """The pairs of a file with the columns `term` and `other`. Raises UserError."""
    pairs = read_pairs(path)
    raise_problems(
        [
            f"{path}, row {number}: {truncated_repr(one)} would be swapped for itself"
            for number, (one, other) in enumerate(pairs, 1)
            if one.casefold() == other.casefold()
        ][:SHOWN]
    )
    return Swaps(pairs)


class Swaps:
    """Pairs of terms, each of which becomes the other: Swaps([("he", "she")])("He saw it") is ("She saw it", ["he"]).

    Terms are found as whole words, whatever their letter case, the longest first; what takes their place gets their
    letter case (data/word_list.py). `ambiguous` has the terms of several pairs, and all that they could become: they
    become the first.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        self._others: dict[str, tuple[str, list[str]]] = {}  # case-folded term -> the term, what it could become
        for pair in pairs:
            for term, other in (pair, pair[::-1]):
                known = self._others.setdefault(term.casefold(), (term, []))[1]
                known += [other] if other.casefold() not in map(str.casefold, known) else []
        self.ambiguous = {term: others for term, others in self._others.values() if len(others) > 1}
        terms = sorted((regex.escape(term) for term, _ in self._others.values()), key=len, reverse=True)
        # Accents and vowel signs are parts of words: \w alone would take them for ends.
        self._pattern = regex.compile(rf"(?<![\w\p{{M}}])(?:{'|'.join(terms)})(?![\w\p{{M}}])", regex.IGNORECASE)

    def __call__(self, text: str) -> tuple[str, list[str]]:
        """The text with every term swapped, and the terms that it held, as they are listed."""
        found = []

        def swapped(match) -> str:
            # IGNORECASE goes further than case folding for a few letters (a Turkish dotless i is an i): those stay.
            if match[0].casefold() not in self._others:
                return match[0]
            listed, others = self._others[match[0].casefold()]
            found.append(listed)
            return cased(others[0], match[0], listed)

        return self._pattern.sub(swapped, text), found
