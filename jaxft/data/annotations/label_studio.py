"""Label Studio's JSON export: tasks with `data` and `annotations`, whose `result` holds the spans.

Its offsets count UTF-16 units (data/annotations/units.py).
"""

import logging
from collections.abc import Iterable
from typing import Any

from jaxft.data.annotations.annotated_text import AnnotatedText, Mark, in_order, mark_of, raise_listed, simple_fields
from jaxft.data.annotations.texts import text_field
from jaxft.problems import UserError, truncated_repr

log = logging.getLogger("jaxft")

NAME = "Label Studio"
SPAN_TYPE = "labels"  # the type of results that are spans of plain text
MARKUP_TYPE = "hypertextlabels"


def is_task(value: Any) -> bool:
    """Whether a value is a task of an export."""
    return isinstance(value, dict) and isinstance(value.get("data"), dict) and isinstance(_annotations(value), list)


def fits(value: Any) -> bool:
    """Whether a value is a task with at least one span."""
    return is_task(value) and any(
        isinstance(one, dict) and one.get("type") in (SPAN_TYPE, MARKUP_TYPE)
        for annotation in _annotations(value)
        for one in _results(annotation)
    )


def records(values: Iterable[Any], path: str) -> list[AnnotatedText]:
    """The tasks of an export; skipped annotations do not count, and tasks without one have no spans (None).

    Raises a UserError that lists the tasks whose annotators differ.
    """
    problems: list[str] = []
    found: list[tuple[dict[str, Any], list[Mark] | None, str]] = []
    for number, value in enumerate(values, 1):
        place = f"{path}, row {number}"
        try:
            found.append((value, _marks(value), place))
        except UserError as error:
            problems += [f"{place}: {problem}" for problem in error.problems]
    raise_listed(problems, path)
    name = text_field([(value["data"], marks or []) for value, marks, _ in found], path)
    made = []
    for value, marks, place in found:
        text = value["data"].get(name)
        if not isinstance(text, str):
            problems.append(f"{place}: expected a text for data.{name}, found {truncated_repr(text)}")
            continue
        more = simple_fields({"id": value.get("id"), **value["data"]}, name)
        made.append(AnnotatedText(text, marks, more, place=place))
    raise_listed(problems, path)
    return made


def _annotations(value: dict[str, Any]) -> Any:
    return value.get("annotations", value.get("completions"))  # the name before version 1.0


def _results(annotation: Any) -> list[Any]:
    results = annotation.get("result") if isinstance(annotation, dict) else None
    return results if isinstance(results, list) else []


def _marks(value: Any) -> list[Mark] | None:
    """The spans of a task, on which its annotators agree, or which are marked as the ground truth."""
    if not is_task(value):
        raise UserError(f"expected a task with data and annotations, found {truncated_repr(value)}")
    done = [one for one in _annotations(value) if isinstance(one, dict) and not one.get("was_cancelled")]
    done = [one for one in done if one.get("ground_truth")] or done
    sets = [in_order(map(_mark, filter(_is_span, _results(one)))) for one in done]
    if any(marks != sets[0] for marks in sets):
        raise UserError(
            f"{len(sets)} annotations of task {value.get('id')} have different spans: mark one of them as ground truth "
            "in Label Studio, or export one"
        )
    return sets[0] if sets else None


def _is_span(result: Any) -> bool:
    return isinstance(result, dict) and result.get("type") in (SPAN_TYPE, MARKUP_TYPE)


def _mark(result: dict[str, Any]) -> Mark:
    value = result.get("value")
    if result["type"] == MARKUP_TYPE or not isinstance(value, dict):
        raise UserError("its spans are in HTML, where places are paths: annotate plain text (the tag Text)")
    return span_of(value)


def span_of(value: dict[str, Any]) -> Mark:
    """The span of a `value`. Raises UserError unless it has one label."""
    labels = value.get(SPAN_TYPE)
    if not isinstance(labels, list) or len(labels) != 1:
        raise UserError(
            f"the span {value.get('start')} to {value.get('end')} has the labels {truncated_repr(labels)}, expected one"
        )
    return mark_of(value.get("start"), value.get("end"), labels[0], value.get("text"))
