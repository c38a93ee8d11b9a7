"""spaCy's training data as JSON: [text, {"entities": [[start, end, label]]}], or objects with `text` and `entities`."""

from collections.abc import Iterable
from typing import Any

from jaxft.data.annotations.annotated_text import (
    AnnotatedText,
    are_triples,
    read_records,
    simple_fields,
    text_of_record,
    triples,
)
from jaxft.problems import UserError, truncated_repr

NAME = "spaCy"
KEY = "entities"


def is_pair(value: Any) -> bool:
    """Whether a value is [text, {...}]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)


def fits(value: Any) -> bool:
    """Whether a value is a text, maybe without spans if it is a pair, with at least one if it is an object."""
    return (
        is_pair(value) or isinstance(value, dict) and isinstance(value.get("text"), str) and are_triples(value.get(KEY))
    )


def records(values: Iterable[Any], path: str) -> list[AnnotatedText]:
    """The texts of a file."""
    return read_records(values, path, _record)


def _record(value: Any) -> AnnotatedText:
    if not is_pair(value):
        return AnnotatedText(text_of_record(value), triples(value.get(KEY)), simple_fields(value))
    text, annotation = value
    if KEY not in annotation:
        raise UserError(f"expected {KEY!r} beside the text, found {truncated_repr(annotation)}")
    return AnnotatedText(text, triples(annotation[KEY]), simple_fields(annotation))
