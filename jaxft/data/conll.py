"""Sentences in columns, as in the CoNLL shared tasks: one word and its tags per line, empty lines between sentences."""

import logging
import re
from collections.abc import Iterable, Iterator

from jaxft.problems import UserError, listed

log = logging.getLogger("jaxft")

WORD, TAG = "tokens", "tags"  # names of the first and the last column, if no names are given
# The first cell in CoNLL-U (universaldependencies.org/format.html): 4 for a word, 2-3 for a multiword token, 4.1 for an
# empty node, which is not in the text.
NUMBER, NOT_A_WORD = re.compile(r"\d+([-.]\d+)?"), re.compile(r"\d+[-.]\d+")
WIDTH = 10  # columns of CoNLL-U
DOCUMENT = "-DOCSTART-"  # begins a line that separates documents


def sentences(path: str, lines: Iterable[str], names: tuple[str, ...] = ()) -> Iterator[dict[str, list[str]]]:
    """A row for each sentence: column name -> the cells of its words. With `names=()`, words are the first column and
    tags the last.

    The first line that does not begin with "#" sets the number of columns and the separator: tabs if it has one, else
    spaces. A line that begins with "#" and has another number of columns is a comment. In CoNLL-U, multiword tokens
    (2-3) and empty nodes (4.1) are left out with a log line. Raises UserError with file and line.
    """
    lines = [line.rstrip("\r\n") for line in lines]
    first = next((i for i, line in enumerate(lines) if _holds_word(line) and not line.startswith("#")), None)
    if first is None:
        return
    separator = "\t" if "\t" in lines[first] else " "
    width = len(_cells(lines[first], separator))
    _check_width(f"{path}, line {first + 1}", width, names)
    rows: list[list[str]] = []
    left_out = 0
    for number, line in enumerate(lines, 1):
        cells = _cells(line, separator) if _holds_word(line) else []
        if line.startswith("#") and len(cells) != width:
            continue
        if cells and (len(cells) != width or "" in cells):
            raise UserError(f"{path}, line {number}: {_fault(cells, width, first + 1, separator)}")
        if cells:
            rows.append(cells)
        if rows and (not cells or number == len(lines)):
            words = _words(rows, path, names)
            left_out += len(rows) - len(words)
            if words:
                yield _row(words, names)
            rows = []
    if left_out:
        log.info("%s: %s multiword tokens (2-3) and empty nodes (4.1) are left out", path, f"{left_out:,}")


def _words(rows: list[list[str]], path: str, names: tuple[str, ...]) -> list[list[str]]:
    """The lines of a sentence that are words. Raises UserError if the first column holds numbers and is not named."""
    if len(rows[0]) != WIDTH or not all(NUMBER.fullmatch(cells[0]) for cells in rows):
        return rows
    words = [cells for cells in rows if not NOT_A_WORD.fullmatch(cells[0])]
    if not names and [cells[0] for cells in words] == [str(number) for number in range(1, len(words) + 1)]:
        raise UserError(
            f"{path}: the first column numbers the words, as in CoNLL-U: name the ten columns in `columns`, as in "
            "('id', 'tokens', 'lemma', 'tags', 'xpos', 'feats', 'head', 'deprel', 'deps', 'misc')"
        )
    return words


def _holds_word(line: str) -> bool:
    return line.strip() != "" and not line.startswith(DOCUMENT)


def _cells(line: str, separator: str) -> list[str]:
    # split() without arguments would also split at other white space, which may be part of a word.
    cells = line.split(separator)
    return cells if separator == "\t" else [cell for cell in cells if cell]


def _row(rows: list[list[str]], names: tuple[str, ...]) -> dict[str, list[str]]:
    columns = list(map(list, zip(*rows, strict=True)))
    return dict(zip(names, columns, strict=True)) if names else {WORD: columns[0], TAG: columns[-1]}


def _check_width(place: str, width: int, names: tuple[str, ...]) -> None:
    if names and len(names) != width:
        raise UserError(f"{place}: {width} columns, but {len(names)} names for them: {listed(names)}")
    if width == 1:
        raise UserError(f"{place}: one column, expected a word and its tag")


def _fault(cells: list[str], width: int, first: int, separator: str) -> str:
    if len(cells) == width:
        return f"column {cells.index('') + 1} is empty: write _ where there is no value"
    return f"{len(cells)} columns, line {first} has {width}, separated by {'tabs' if separator != ' ' else 'spaces'}"
