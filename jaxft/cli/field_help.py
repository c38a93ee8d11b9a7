"""`--config=FILE --help`: the fields of a configuration, with types, values, defaults and documentation."""

import dataclasses
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from jaxft.config.checks import FIELD_CHOICES
from jaxft.config.choices import blank, kind_of, names_of
from jaxft.config.component import annotations, is_config, type_name
from jaxft.config.field_docs import field_docs
from jaxft.config.ranges import INT, Range, hints
from jaxft.config.run import Config, Eval
from jaxft.problems import clipped, truncated_repr

COLUMNS = 100
DOCS = 46  # where the documentation begins


def field_help(cfg: Config) -> str:
    """The lines of all fields; components are followed by their own fields."""
    head = "fields of this configuration; --config.FIELD=VALUE sets one, or chooses another component:"
    lines = [head, "", *_fields(cfg, "", set())]
    return "\n".join(line for line, before in zip(lines, ["", *lines], strict=False) if line or before)


def _fields(obj: Any, prefix: str, seen: set[type]) -> Iterator[str]:
    """The fields of a component; those of a class that has been `seen` are documented there."""
    docs = {} if type(obj) in seen else field_docs(type(obj))
    seen.add(type(obj))
    for field in dataclasses.fields(obj):
        name, value = prefix + field.name, getattr(obj, field.name)
        doc = docs.get(field.name, "")
        if is_config(value):
            yield from _component(type(obj), field.name, name, value, seen)
        elif annotations(type(obj))[field.name] == dict[str, Eval]:
            names = ", ".join(value) or "none"
            yield from _line(f"{name}.NAME.data=FILE", f"adds an evaluation set; there are: {names}")
            for key, item in value.items():
                yield from _fields(item, f"{name}.{key}.", seen)
        else:
            shown = f"{name}: {type_name(annotations(type(obj))[field.name])} = {truncated_repr(value)}"
            limits = _limits(obj, field.name) if docs else ""
            yield from _line(shown, "; ".join(filter(None, [doc, limits, _default(obj, field.name)])))


def _component(cls: type, field: str, name: str, value: Any, seen: set[type]) -> Iterator[str]:
    kind = kind_of(cls, field)
    title = "" if type(value) in seen else (type(value).__doc__ or "").strip().partition("\n\n")[0]
    others = [other for other in names_of(kind) if other != type(value).__name__] if kind else []
    yield ""
    yield from _line(f"{name} = {type(value).__name__}", " ".join(title.split()))
    yield from _line("", f"others: {', '.join(others)}") if others and title else ()
    yield from _fields(value, f"{name}.", seen)
    yield ""


def _line(head: str, doc: str) -> Iterator[str]:
    """A field and its documentation, in the same line if there is room."""
    first = f"  {head}"
    lines = textwrap.wrap(doc, COLUMNS - DOCS)
    if lines and len(first) < DOCS - 1:
        yield f"{first:{DOCS}}{lines.pop(0)}"
    else:
        yield clipped(first, COLUMNS)
    yield from (" " * DOCS + line for line in lines)


def _limits(obj: Any, field: str) -> str:
    """What values a field takes, beyond its type."""
    if isinstance(obj, Config) and field in FIELD_CHOICES:
        return f"one of {', '.join(FIELD_CHOICES[field])}"
    ranges = [str(limit) for limit in _ranges(hints(type(obj))[field]) if limit.low > -INT]
    return ", ".join(filter(None, dict.fromkeys(ranges)))


def _ranges(hint: Any) -> Iterator[Range]:
    yield from (one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Range))
    for arg in typing.get_args(hint):
        yield from _ranges(arg)


def _default(obj: Any, field: str) -> str:
    """The default, where the value is another one."""
    default = getattr(blank(type(obj)), field)
    changed = default != getattr(obj, field)
    required = {f.name for f in dataclasses.fields(obj) if f.default is f.default_factory is dataclasses.MISSING}
    return "" if not changed or field in required else f"default: {truncated_repr(default)}"
