"""Prodigy's JSONL: {"text": ..., "spans": [{"start", "end", "label"}], "tokens": [...], "answer": "accept"}."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

from jaxft.data.annotations.annotated_text import (
    SPANS,
    AnnotatedText,
    Mark,
    mark_of,
    read_records,
    simple_fields,
    text_of_record,
)
from jaxft.problems import UserError, truncated_repr

log = logging.getLogger("jaxft")

NAME = "Prodigy"
ACCEPTED = "accept"


def fits(value: Any) -> bool:
    """Whether a value is a text with at least one span."""
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return False
    spans = value.get(SPANS)
    return isinstance(spans, list) and bool(spans) and isinstance(spans[0], dict) and {"start", "end"} <= set(spans[0])


def records(values: Iterable[Any], path: str) -> list[AnnotatedText]:
    """The texts whose answer is "accept", or that have no answer; the log counts the others."""
    left_out: Counter[str] = Counter()

    def read(value: Any) -> AnnotatedText | None:
        answer = str(value.get("answer") or ACCEPTED) if isinstance(value, dict) else ACCEPTED
        left_out[answer] += 1
        return _record(value) if answer == ACCEPTED else None

    found = read_records(values, path, read)
    for answer, count in left_out.items():
        if answer != ACCEPTED:
            log.info("%s: %s texts with the answer %s are left out", path, f"{count:,}", answer)
    return found


def _record(value: Any) -> AnnotatedText:
    text = text_of_record(value)
    spans = _objects(value.get(SPANS), SPANS)
    tokens = [_mark(one | {"label": "token"}) for one in _objects(value.get("tokens"), "tokens") or []]
    return AnnotatedText(text, None if spans is None else list(map(_mark, spans)), simple_fields(value), tokens)


def _objects(value: Any, name: str) -> list[dict[str, Any]] | None:
    if value is not None and (not isinstance(value, list) or any(not isinstance(one, dict) for one in value)):
        raise UserError(f"expected a list of objects for {name}, found {truncated_repr(value)}")
    return value


def _mark(one: dict[str, Any]) -> Mark:
    return mark_of(one.get("start"), one.get("end"), one.get("label"), one.get("text"))
