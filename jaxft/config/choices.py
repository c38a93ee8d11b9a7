"""Components chosen by name: `--config.optim=Lion`. A file stands for its source: `--config.data=FILE`."""

import dataclasses
import re
import typing
from typing import Any

from jaxft.config.component import annotations, find_class, is_config
from jaxft.config.config_dict import MODULE_OF, component_class
from jaxft.config.protocols import Source
from jaxft.config.run import Config
from jaxft.problems import UserError, suggest, truncated_repr

# Where the classes of components are -> their kind, which is the name of their field in Config; the longest match
# counts.
PLACES = {
    "jaxft.tasks": "task",
    "jaxft.data": "data",
    "jaxft.data.batching": "batching",
    "jaxft.tune": "tune",
    "jaxft.adapters": "tune",
    "jaxft.quantization": "quantization",
    "jaxft.optim": "optim",
    "jaxft.optim.schedule": "schedule",
}


class Missing:
    """The value of a field that has no default, until it is set."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = Missing()


def kind_of(cls: type, field: str) -> str | None:
    """The kind of component that a field of a class holds, of PLACES; None if it holds none."""
    hint = annotations(cls).get(field)
    if Source in (hint, *typing.get_args(hint)):
        return "data"
    return field if issubclass(cls, Config) and field in PLACES.values() else None


def section_class(cls: type, field: str) -> type | None:
    """The class of an optional section, such as EarlyStopping of a field annotated `EarlyStopping | None`."""
    classes = [one for one in typing.get_args(annotations(cls).get(field)) if dataclasses.is_dataclass(one)]
    return classes[0] if classes and isinstance(classes[0], type) else None


def names_of(kind: str) -> list[str]:
    """The names of the components of a kind."""
    return [name for name, module in MODULE_OF.items() if _kind(module) == kind]


def _kind(module: str) -> str:
    return PLACES[max((place for place in PLACES if module.startswith(place)), key=len)]


def chosen(kind: str, text: str, place: str) -> Any:
    """The component that `text` names, with its defaults, and MISSING in fields without one.

    For a source, any other text is the path of a Data. Raises ValueError for names that do not exist.
    """
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text):
        try:
            return blank(find_class(text))
        except UserError as error:
            raise ValueError("; ".join(error.problems)) from None
    names = names_of(kind)
    if text in names:
        return blank(component_class(text, place))
    if kind == "data":
        return source_of(text)
    other = f" Did you mean --config.{_kind(MODULE_OF[text])}={text}?" if text in MODULE_OF else suggest(text, names)
    raise ValueError(f"expected {', '.join(names)}, or MODULE:CLASS.{other}")


def source_of(path: str) -> Any:
    """The source of a file, or of a data set of the hub."""
    source = blank(component_class("Data", "data"))
    source.path = path
    return source


def blank(cls: type) -> Any:
    """An object of a config class with its defaults, and MISSING in fields without one."""
    made: Any = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.default_factory is not dataclasses.MISSING:
            setattr(made, field.name, field.default_factory())
        else:
            setattr(made, field.name, MISSING if field.default is dataclasses.MISSING else field.default)
    return made


def missing(value: Any, name: str) -> list[tuple[str, str]]:
    """(dotted name, message) for each MISSING field in a component called `name`."""
    if not is_config(value):
        return []
    found = []
    for field in dataclasses.fields(value):
        place, item = f"{name}.{field.name}", getattr(value, field.name)
        if item is MISSING:
            kind = type(value).__name__
            found.append((place, f"--config.{place}=VALUE is needed: {kind} has no default for {field.name!r}"))
        found += missing(item, place)
    return found


def described(value: Any) -> str:
    """A component with those of its fields that differ from the defaults: Lion(decay=0.2)."""
    if not is_config(value):
        return truncated_repr(value)
    plain = blank(type(value))
    changed = [f.name for f in dataclasses.fields(value) if getattr(value, f.name) != getattr(plain, f.name)]
    return f"{type(value).__name__}({', '.join(f'{name}={described(getattr(value, name))}' for name in changed)})"
