"""Word lists that the user gives as files, and the letter case of replaced words."""

from typing import Any

from jaxft.data.source import Data
from jaxft.problems import SHOWN, UserError, listed, raise_problems, truncated_repr

SEPARATOR = "|"


def read_synonyms(path: str) -> dict[str, tuple[str, list[str]]]:
    """Case-folded word -> (the word as it is listed, its synonyms).

    The file has any format that training reads, with the columns `word` and `synonyms`: a list, or a text of synonyms
    separated by "|". A word may have several rows. Raises UserError.
    """
    table: dict[str, tuple[str, list[str]]] = {}
    problems: list[str] = []
    for number, (word, cell) in enumerate(_cells(path, ("word", "synonyms")), 1):
        others = cell.split(SEPARATOR) if isinstance(cell, str) else cell
        others = (
            [other.strip() if isinstance(other, str) else "" for other in others] if isinstance(others, list) else []
        )
        if not _is_term(word) or len(word.split()) > 1:
            problems.append(f"{path}, row {number}: {truncated_repr(word)} in column 'word', expected one word")
        elif not others or not all(others):
            problems.append(
                f"{path}, row {number}: {truncated_repr(cell)} in column 'synonyms', expected a text, or a list"
            )
        else:
            table.setdefault(word.strip().casefold(), (word.strip(), []))[1].extend(others)
    raise_problems(problems[:SHOWN])
    return table


def read_pairs(path: str) -> list[tuple[str, str]]:
    """Terms and their counterparts, from the columns `term` and `other` of a file in any format that training reads."""
    pairs = _cells(path, ("term", "other"))
    raise_problems(
        [
            f"{path}, row {number}: {truncated_repr(cell)} in column {name!r}, expected a word"
            for number, pair in enumerate(pairs, 1)
            for name, cell in zip(("term", "other"), pair, strict=True)
            if not _is_term(cell)
        ][:SHOWN]
    )
    return [(term.strip(), other.strip()) for term, other in pairs]


def cased(word: str, found: str, listed: str) -> str:
    """`word` with the letter case of `found`, which it replaces: HE becomes SHE, He becomes She.

    If `found` equals the `listed` term, or has mixed case, `word` is unchanged.
    """
    if found == listed:
        return word
    if found.isupper() and sum(map(str.isalpha, found)) > 1:
        return word.upper()
    if found[:1].isupper():
        return word[:1].upper() + word[1:]
    return word.lower() if found.islower() else word


def _is_term(cell: Any) -> bool:
    return isinstance(cell, str) and cell.strip() != ""


def _cells(path: str, columns: tuple[str, str]) -> list[tuple[Any, Any]]:
    rows = Data(path=path).open()
    if missing := [name for name in columns if name not in rows.columns]:
        raise UserError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}: name its columns "
            f"{' and '.join(columns)} in the first line (they are {listed(map(repr, rows.columns))})"
        )
    first, second = columns
    return [(row[first], row[second]) for row in rows]
