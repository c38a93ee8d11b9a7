"""doccano's JSONL for sequence labelling: {"text": ..., "label": [[start, end, label]]}, and with `entities`."""

from collections.abc import Iterable
from typing import Any

from jaxft.data.annotations.annotated_text import (
    AnnotatedText,
    Mark,
    are_triples,
    mark_of,
    read_records,
    simple_fields,
    text_of_record,
    triples,
)
from jaxft.problems import UserError, truncated_repr

NAME = "doccano"
LISTS = ("label", "labels")  # the key of the spans, by version


def fits(value: Any) -> bool:
    """Whether a value is a text of doccano with at least one span."""
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return False
    return any(are_triples(value.get(name)) for name in LISTS) or _are_entities(value.get("entities"))


def records(values: Iterable[Any], path: str) -> list[AnnotatedText]:
    """The texts of an export. Relations are not read."""
    return read_records(values, path, _record)


def _are_entities(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "start_offset" in value[0]


def _record(value: Any) -> AnnotatedText:
    text = text_of_record(value)
    name = next((name for name in LISTS if name in value), "entities")
    marks = _entities(value.get(name)) if name == "entities" else triples(value[name])
    return AnnotatedText(text, marks, simple_fields(value))


def _entities(value: Any) -> list[Mark] | None:
    if value is None:
        return None
    if not isinstance(value, list) or any(not isinstance(one, dict) for one in value):
        raise UserError(f"expected a list of entities with start_offset, found {truncated_repr(value)}")
    return [mark_of(one.get("start_offset"), one.get("end_offset"), one.get("label")) for one in value]
