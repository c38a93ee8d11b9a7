"""Pairs of terms such as he and she, and texts in which they are swapped."""

from collections.abc import Iterable

import regex

from jaxft.data.word_list import cased, read_pairs
from jaxft.problems import SHOWN, raise_problems, truncated_repr


def read_swaps(path: str) -> "Swaps":
    """The pairs of a file with the columns `term` and `other`. Raises UserError for pairs of equal terms."""
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
    """Swaps the terms of pairs in a text: Swaps([("he", "she")])("He saw it") is ("She saw it", ["he"]).

    Terms match whole words in any letter case, longer terms first; the replacement gets the same letter case
    (data/word_list.py). `ambiguous` maps terms of several pairs to all their replacements, of which the first is used.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        self._others: dict[str, tuple[str, list[str]]] = {}  # case-folded term -> the term, its replacements
        for pair in pairs:
            for term, other in (pair, pair[::-1]):
                known = self._others.setdefault(term.casefold(), (term, []))[1]
                known += [other] if other.casefold() not in map(str.casefold, known) else []
        self.ambiguous = {term: others for term, others in self._others.values() if len(others) > 1}
        terms = sorted((regex.escape(term) for term, _ in self._others.values()), key=len, reverse=True)
        # Accents and vowel signs (\p{M}) are parts of words, too, but not in \w.
        self._pattern = regex.compile(rf"(?<![\w\p{{M}}])(?:{'|'.join(terms)})(?![\w\p{{M}}])", regex.IGNORECASE)

    def __call__(self, text: str) -> tuple[str, list[str]]:
        """(the text with every term swapped, the terms that it contains, as listed)."""
        found: list[str] = []

        def swapped(match: regex.Match[str]) -> str:
            # IGNORECASE matches a few letters that case folding distinguishes (the Turkish dotless i): these stay.
            if match[0].casefold() not in self._others:
                return match[0]
            listed, others = self._others[match[0].casefold()]
            found.append(listed)
            return cased(others[0], match[0], listed)

        return self._pattern.sub(swapped, text), found
