"""Label Studio's JSON-MIN export: {"text": ..., "label": [{"start", "end", "text", "labels": [...]}]}.

The names of both keys are those of the labelling configuration. Each annotation is an object.
"""

import logging
from collections.abc import Iterable
from typing import Any

from jaxft.data.annotations.annotated_text import AnnotatedText, Mark, in_order, raise_listed, simple_fields
from jaxft.data.annotations.label_studio import SPAN_TYPE, span_of
from jaxft.data.annotations.texts import text_field
from jaxft.data.example import Row
from jaxft.problems import UserError, truncated_repr

log = logging.getLogger("jaxft")

NAME = "Label Studio (JSON-MIN)"
OWN = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time")  # keys that are not data


def is_annotation(value: Any) -> bool:
    """Whether a value is an annotation of such an export, maybe without a span."""
    return isinstance(value, dict) and "annotation_id" in value


def fits(value: Any) -> bool:
    """Whether a value is an annotation with at least one span."""
    return isinstance(value, dict) and any(map(_are_spans, value.values()))


def records(values: Iterable[Any], path: str) -> list[AnnotatedText]:
    """The annotated texts; equal annotations of one task become one.

    Raises a UserError that lists the tasks whose annotations differ.
    """
    rows = list(values)
    names = sorted({name for row in rows if isinstance(row, dict) for name in row if _are_spans(row[name])})
    if len(names) > 1:
        raise UserError(f"{path}: several keys hold spans: {', '.join(names)}: export one of them")
    problems: list[str] = []
    marks: list[list[Mark]] = []
    for number, row in enumerate(rows, 1):
        try:
            marks.append(_marks(row, names[0]))
        except UserError as error:
            problems += [f"{path}, row {number}: {problem}" for problem in error.problems]
    raise_listed(problems, path)
    name = text_field([(row, some) for row, some in zip(rows, marks, strict=True)], path, OWN)
    return _distinct(rows, marks, names[0], name, path)


def _are_spans(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and {"start", SPAN_TYPE} <= set(value[0])
    )


def _marks(row: Any, name: str) -> list[Mark]:
    spans = (row.get(name) or []) if isinstance(row, dict) else row
    if not isinstance(spans, list) or any(not isinstance(one, dict) for one in spans):
        raise UserError(f"expected a list of spans for {name}, found {truncated_repr(spans)}")
    return in_order(map(span_of, spans))


def _distinct(rows: list[Row], marks: list[list[Mark]], spans: str, name: str, path: str) -> list[AnnotatedText]:
    made: dict[Any, AnnotatedText] = {}
    problems, again = [], 0
    for number, (row, some) in enumerate(zip(rows, marks, strict=True), 1):
        place = f"{path}, row {number}"
        if not isinstance(row.get(name), str):
            problems.append(f"{place}: expected a text for {name}, found {truncated_repr(row.get(name))}")
            continue
        key = row["id"] if isinstance(row.get("id"), str | int) else place
        record = AnnotatedText(row[name], some, simple_fields(row, name, spans), place=place)
        first = made.setdefault(key, record)
        again += first is not record
        if first.marks != some:
            problems.append(f"{place}: other spans of task {key} than in {first.place}: export one annotation a task")
    raise_listed(problems, path)
    if again:
        log.info("%s: %s annotations that equal the first one of their task are left out", path, f"{again:,}")
    return list(made.values())
