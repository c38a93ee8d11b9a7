"""The inputs of predictions: texts, tuples of texts, or rows with the model's columns; and the columns of a file."""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxft.data.example import Row
from jaxft.inference.settings import Inference
from jaxft.problems import SHOWN, UserError, listed, raise_problems, suggest, truncated_repr
from jaxft.tasks.multiple_choice import choices_of
from jaxft.tasks.template import column, columns_of

log = logging.getLogger("jaxft")

# The default columns of a head; for all others there is one, called text.
USUAL = {"question-answering": ("question", "context"), "multiple-choice": ("question", "choices")}
USUAL_TEXT = ("text",)
TAGS = "token-classification"


class ColumnRows(Protocol):
    """What matters here of jaxft.data's `Rows`."""

    name: str  # for messages
    columns: list[str]
    mixed: dict[str, str]  # what is wrong with columns whose values have different types


def inputs_of(asked: Any) -> list[Any]:
    """A list of inputs from one text, one tuple of texts, one row (a dict), several of them, or a DataFrame."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(asked, pandas.DataFrame):
        return asked.astype(object).where(asked.notna(), None).to_dict("records")
    polars = sys.modules.get("polars")
    if polars is not None and isinstance(asked, polars.DataFrame):
        return asked.to_dicts()
    if isinstance(asked, str | tuple | Mapping):
        return [asked]
    if isinstance(asked, bytes) or not isinstance(asked, Iterable):
        raise UserError(f"expected a text, or a list of texts, not {truncated_repr(asked)}")
    return list(asked)


def texts_read(asked: list[Any], inference: Inference) -> list[tuple[Any, ...]]:
    """For each input the texts that the model reads together; for tags, a tuple of one text or one list of words.

    In rows (dicts), they are in the columns that the model was trained with. Raises UserError with the numbers of the
    inputs.
    """
    found: list[tuple[Any, ...]] = []
    problems: list[str] = []
    for number, one in enumerate(asked, 1):
        try:
            found.append(_texts(one, inference))
        except UserError as error:
            problems += [f"input {number}: {problem}" for problem in error.problems]
        if len(problems) >= SHOWN:
            break
    raise_problems(problems)
    _log_other_counts(found, inference)
    return found


def _texts(one: Any, inference: Inference) -> tuple[Any, ...]:
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
    texts = one.tolist() if isinstance(one, np.ndarray) and one.ndim == 1 else one
    if inference.head == TAGS and isinstance(texts, tuple) and len(texts) == 1:
        (texts,) = texts
        if isinstance(texts, str):
            return (texts,)
    valid = isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
    if not valid or not texts and inference.head != TAGS:
        raise_problems(
            [f"found {truncated_repr(one)}, expected a text, a tuple of texts, or a dict with the model's columns"]
        )
    if inference.head == TAGS and not isinstance(texts, tuple):
        return (list(texts),)
    return tuple(texts)


def _log_other_counts(found: list[tuple[Any, ...]], inference: Inference) -> None:
    """Logs how many inputs have another number of texts than in training."""
    if inference.head not in ("sequence-classification", "none") or not inference.columns:
        return
    trained = len(inference.columns)
    if others := sum(len(texts) != trained for texts in found):
        log.warning(
            "%d of %d inputs are not as in training, where the model read %d text%s together (%s)",
            others,
            len(found),
            trained,
            "s" * (trained > 1),
            listed(inference.columns),
        )


def text_columns(
    rows: ColumnRows,
    inference: Inference,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    flags: str = "--text or --pair",
) -> list[str]:
    """The columns, or templates, of the texts: those that are given, else those of the training.

    For multiple choice, `pair` names a column for each choice, separated by commas, or one that lists the choices; an
    empty `pair` means that there is none. The log says if the columns differ from the training. Raises UserError if the
    rows lack one of the columns, or the column `label`; the message says that `flags` name them.
    """
    trained = list(inference.columns)
    usual = list(USUAL.get(inference.head, USUAL_TEXT))
    names = _named(inference.head, trained or usual, text, pair)
    if text is None and pair is None and _missing(names, rows) and len(trained) == len(usual):
        names = names if _missing(usual, rows) else usual
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
    """The columns, with those that the user names in place of them."""
    first, *others = columns
    if pair is not None:
        others = [name for name in (pair.split(",") if head == "multiple-choice" else [pair]) if name]
    return [text or first, *others]


def _missing(names: Sequence[str | None], rows: ColumnRows) -> list[str]:
    return [name for name in columns_of(*names) if name not in rows.columns]


def texts_of(head: str, rows: list[Row], columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """For each row the texts that the model reads together; for tags, a cell may be a list of words."""
    question, *names = columns
    if head == "multiple-choice":
        lists = choices_of(rows, tuple(names))
        return [(text, *some) for text, some in zip(column(rows, question), lists, strict=True)]
    if head == TAGS and "{" not in question:
        return [(_words(row[question], question),) for row in rows]
    return list(zip(*(column(rows, name) for name in columns), strict=True))


def _words(cell: Any, name: str) -> str | list[str]:
    """The text or the words of a cell."""
    if not isinstance(cell, list):
        return column([{name: cell}], name)[0]
    return column([{name: word} for word in cell], name)


def padded(rows: list[Row], pad: int, batch: int, most: int) -> dict[str, np.ndarray]:
    """The model's arguments (batch, length) for the tokenizer's rows.

    The length is a power of two, at least 16, or `most`, so that few shapes are compiled.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    length = min(max(16, 2 ** (longest - 1).bit_length()), max(most, longest))
    out: dict[str, np.ndarray] = {
        name: np.full((batch, length), pad if name == "input_ids" else 0, np.int32)
        for name in ("input_ids", "attention_mask", "token_type_ids")
        if name in rows[0]
    }
    for number, row in enumerate(rows):
        for name, array in out.items():
            array[number, : len(row[name])] = row[name]
    return out
