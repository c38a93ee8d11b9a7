"""What a model may be asked about: texts, tuples of texts, rows with the model's columns; and where a file has them."""

import logging
import sys
from collections.abc import Iterable, Mapping

import numpy as np

from jaxft.inference.settings import Inference
from jaxft.problems import SHOWN, UserError, listed, raise_problems, suggest, truncated_repr
from jaxft.tasks.multiple_choice import choices_of
from jaxft.tasks.template import column, columns_of

log = logging.getLogger("jaxft")

# The columns that are usual for a head; for all others it is one, called text.
USUAL = {"question-answering": ("question", "context"), "multiple-choice": ("question", "choices")}
USUAL_TEXT = ("text",)
TAGS = "token-classification"


def inputs_of(asked) -> list:
    """What is asked about, as a list: one text, one tuple of texts, one row, or any number of them."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(asked, pandas.DataFrame):
        return asked.to_dict("records")
    if isinstance(asked, str | tuple | Mapping):
        return [asked]
    if isinstance(asked, bytes) or not isinstance(asked, Iterable):
        raise UserError(f"expected a text, or a list of texts, not {truncated_repr(asked)}")
    return list(asked)


def texts_read(asked: list, inference: Inference) -> list[tuple]:
    """The texts that the model reads together for each input: a tuple of strings; of words, for tags, one list.

    A row (a dict) has them in the columns that the model was trained with. Raises UserError with the inputs' numbers.
    """
    found, problems = [], []
    for number, one in enumerate(asked, 1):
        try:
            found.append(_texts(one, inference))
        except UserError as error:
            problems += [f"input {number}: {problem}" for problem in error.problems]
        if len(problems) >= SHOWN:
            break
    raise_problems(problems)
    _say_parts(found, inference)
    return found


def _texts(one, inference: Inference) -> tuple:
    if isinstance(one, str):
        return (one,)
    if isinstance(one, Mapping):
        columns = list(inference.columns or USUAL.get(inference.head, USUAL_TEXT))
        raise_problems(
            f"the row has no {name!r}, which the model reads.{suggest(name, map(str, one))}"
            for name in columns_of(*columns)
            if name not in one
        )
        return texts_of(inference.head, [dict(one)], columns)[0]
    parts = one.tolist() if isinstance(one, np.ndarray) and one.ndim == 1 else one
    if inference.head == TAGS and isinstance(parts, tuple) and len(parts) == 1:
        (parts,) = parts
        if isinstance(parts, str):
            return (parts,)
    texts = isinstance(parts, list | tuple) and all(isinstance(part, str) for part in parts)
    if not texts or not parts and inference.head != TAGS:
        raise_problems(
            [f"found {truncated_repr(one)}, expected a text, a tuple of texts, or a dict with the model's columns"]
        )
    if inference.head == TAGS and not isinstance(parts, tuple):
        return (list(parts),)
    return tuple(parts)


def _say_parts(found: list[tuple], inference: Inference) -> None:
    """Log how many inputs have another number of texts than the model was trained with."""
    if inference.head not in ("sequence-classification", "none") or not inference.columns:
        return
    trained = len(inference.columns)
    if others := sum(len(texts) != trained for texts in found):
        log.warning(
            "%d of %d inputs are not as the model was trained: it read %d text%s together (%s)",
            others,
            len(found),
            trained,
            "s" * (trained > 1),
            listed(inference.columns),
        )


def text_columns(
    rows, inference: Inference, text: str | None = None, pair: str | None = None, label: str | None = None
) -> list[str]:
    """Columns of a row's texts, or templates: those that are named, else those that the model was trained with.

    Of multiple choice `pair` names one for each choice, with commas between them, or one that lists the choices; an
    empty `pair` means that there is none. The log says where they are not those of the training. Raises UserError if
    the rows have no such columns, or no column `label`.
    """
    trained = list(inference.columns)
    usual = list(USUAL.get(inference.head, USUAL_TEXT))
    names = _named(inference.head, trained or usual, text, pair)
    if text is None and pair is None and _missing(names, rows) and len(trained) == len(usual):
        names = names if _missing(usual, rows) else usual
    flags = "--text or --pair" if label is None else "--text, --pair or --label"
    raise_problems(
        f"{rows.name} has no column {name!r}{' with which the model was trained' * (name in columns_of(*trained))}."
        f"{suggest(name, rows.columns)} Columns: {listed(rows.columns)}. Name the right one with {flags}"
        for name in _missing([*names, label], rows)
    )
    raise_problems(rows.mixed[name] for name in columns_of(*names, label) if name in rows.mixed)
    if trained and names != trained:
        log.warning("the model was trained with %s, it reads %s", listed(trained), listed(names))
    return names


def _named(head: str, columns: list[str], text: str | None, pair: str | None) -> list[str]:
    """The columns with those replaced that the user names."""
    first, *others = columns
    if pair is not None:
        others = [name for name in (pair.split(",") if head == "multiple-choice" else [pair]) if name]
    return [text or first, *others]


def _missing(names: list[str | None], rows) -> list[str]:
    return [name for name in columns_of(*names) if name not in rows.columns]


def texts_of(head: str, rows: list[dict], columns: list[str]) -> list[tuple]:
    """The texts of each row that the model reads together; for tags a cell may be a list of words."""
    question, *names = columns
    if head == "multiple-choice":
        lists = choices_of(rows, tuple(names))
        return [(text, *some) for text, some in zip(column(rows, question), lists, strict=True)]
    if head == TAGS and "{" not in question:
        return [(_words(row[question], question),) for row in rows]
    return list(zip(*(column(rows, name) for name in columns), strict=True))


def _words(cell, name: str) -> str | list[str]:
    """A cell of a text, or of its words."""
    if not isinstance(cell, list):
        return column([{name: cell}], name)[0]
    return column([{name: word} for word in cell], name)


def padded(rows: list[dict], pad: int, batch: int, most: int) -> dict[str, np.ndarray]:
    """The tokenizer's rows as the model's arguments (batch, length); the length is a power of two or `most`, so that
    few shapes compile."""
    longest = max(len(row["input_ids"]) for row in rows)
    length = min(max(16, 2 ** (longest - 1).bit_length()), max(most, longest))
    out = {
        name: np.full((batch, length), pad if name == "input_ids" else 0, np.int32)
        for name in ("input_ids", "attention_mask", "token_type_ids")
        if name in rows[0]
    }
    for number, row in enumerate(rows):
        for name, array in out.items():
            array[number, : len(row[name])] = row[name]
    return out
