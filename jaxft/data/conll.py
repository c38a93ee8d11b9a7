"""Sentences in columns, as in the shared tasks of CoNLL: a word and its tags a line, empty lines between sentences."""

import logging
import re
from collections.abc import Iterable, Iterator

from jaxft.problems import UserError, listed

log = logging.getLogger("jaxft")

WORD, TAG = "tokens", "tags"  # columns of a file whose columns have no names: the first and the last
# The first cell of a word in CoNLL-U (universaldependencies.org/format.html): 4; of the surface form of several words:
# 2-3; of a word that is not in the text: 4.1. Only the first kind is a word.
NUMBER, NO_WORD = re.compile(r"\d+([-.]\d+)?"), re.compile(r"\d+[-.]\d+")
WIDTH = 10  # columns of CoNLL-U
DOCUMENT = "-DOCSTART-"  # a line that begins so parts documents, and is no word


def sentences(path: str, lines: Iterable[str], names: tuple[str, ...] = ()) -> Iterator[dict[str, list[str]]]:
    """A row for each sentence: column name to its words' cells. `names` (): the first is the word, the last its tag.

    The first line that does not begin with "#" says how many columns there are, and what parts them: tabs if it has
    one, else spaces. A line that begins with "#" and has another number of columns is a comment. In CoNLL-U, multiword
    tokens (2-3) and empty nodes (4.1) are left out, which the log says. Raises UserError with file and line.
    """
    lines = [line.rstrip("\r\n") for line in lines]
    first = next((i for i, line in enumerate(lines) if _holds_word(line) and not line.startswith("#")), None)
    if first is None:
        return
    parted = "\t" if "\t" in lines[first] else " "
    width = len(_cells(lines[first], parted))
    _check_width(f"{path}, line {first + 1}", width, names)
    rows: list[list[str]] = []
    left_out = 0
    for number, line in enumerate(lines, 1):
        cells = _cells(line, parted) if _holds_word(line) else []
        if line.startswith("#") and len(cells) != width:
            continue
        if cells and (len(cells) != width or "" in cells):
            raise UserError(f"{path}, line {number}: {_fault(cells, width, first + 1, parted)}")
        if cells:
            rows.append(cells)
        if rows and (not cells or number == len(lines)):
            words = _words(rows, path, names)
            left_out += len(rows) - len(words)
            if words:
                yield _row(words, names)
            rows = []
    if left_out:
        log.info("%s: %s multiword tokens (2-3) and empty nodes (4.1) are no words and left out", path, f"{left_out:,}")


def _words(rows: list[list[str]], path: str, names: tuple[str, ...]) -> list[list[str]]:
    """The lines of a sentence that are words. Raises UserError where the first column numbers them and is not named."""
    if len(rows[0]) != WIDTH or not all(NUMBER.fullmatch(cells[0]) for cells in rows):
        return rows
    words = [cells for cells in rows if not NO_WORD.fullmatch(cells[0])]
    if not names and [cells[0] for cells in words] == [str(number) for number in range(1, len(words) + 1)]:
        raise UserError(
            f"{path}: the first column numbers the words, as in CoNLL-U: name the ten columns in `columns`, as in "
            "('id', 'tokens', 'lemma', 'tags', 'xpos', 'feats', 'head', 'deprel', 'deps', 'misc')"
        )
    return words


def _holds_word(line: str) -> bool:
    return line.strip() != "" and not line.startswith(DOCUMENT)


def _cells(line: str, parted: str) -> list[str]:
    # Not split(): it would also split at other white space, which may be part of a word.
    cells = line.split(parted)
    return cells if parted == "\t" else [cell for cell in cells if cell]


def _row(rows: list[list[str]], names: tuple[str, ...]) -> dict[str, list[str]]:
    columns = list(map(list, zip(*rows, strict=True)))
    return dict(zip(names, columns, strict=True)) if names else {WORD: columns[0], TAG: columns[-1]}


def _check_width(place: str, width: int, names: tuple[str, ...]) -> None:
    if names and len(names) != width:
        raise UserError(f"{place}: {width} columns, but {len(names)} names for them: {listed(names)}")
    if width == 1:
        raise UserError(f"{place}: a single column, where a word and its tag are expected")


def _fault(cells: list[str], width: int, first: int, parted: str) -> str:
    if len(cells) == width:
        return f"column {cells.index('') + 1} is empty"
    return f"{len(cells)} columns where line {first} has {width}, parted by {'tabs' if parted != ' ' else 'spaces'}"
