"""Command line flags that override a configuration: `--config.optim.decay=0.1`."""

import ast
import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from jaxft.config.component import annotations, fits, is_config, type_name, walk
from jaxft.config.former_names import present_field
from jaxft.problems import clipped, listed, near, truncated_repr

NONE = type(None)
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def override(root: Any, settings: list[tuple[str, str]]) -> list[str]:
    """Assigns each (dotted name, text) in `root`; the annotation of the field says how the text is read.

    Returns one sentence for each setting that is wrong; the others are assigned. Later settings win.
    """
    problems = []
    for name, text in settings:
        try:
            _assign(root, name, text)
        except ValueError as error:
            problems.append(f"--config.{clipped(name)}={clipped(text)}: {error}")
    return problems


def unshared(value: Any) -> Any:
    """A copy in which no two places hold the same object, so that an override changes one place only."""
    if is_config(value):
        copies = {field.name: unshared(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **copies)
    if isinstance(value, dict):
        return {key: unshared(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(unshared(item) for item in value)
    return value


def parse(text: str, hint: Any) -> Any:
    """The value of `text` for a field annotated with `hint`. Raises ValueError that says what is expected."""
    try:
        value = _read(text, hint)
    except (ValueError, KeyError):
        value = _NOTHING
    if value is _NOTHING or not fits(value, hint):
        raise ValueError(f"expected {type_name(hint)}")
    return value


def _assign(root: Any, name: str, text: str) -> None:
    parts = name.split(".")
    holder = root
    for depth, part in enumerate(parts):
        place = ".".join(["config", *parts[:depth]])
        _check_part(root, holder, part, place, name)
        if depth < len(parts) - 1:
            holder = holder[part] if isinstance(holder, dict) else getattr(holder, part)
    last = parts[-1]
    if isinstance(holder, dict):
        holder[last] = _parse_like(text, holder[last], type(holder[last]), f"config.{name}")
    else:
        value = _parse_like(text, getattr(holder, last), annotations(type(holder))[last], f"config.{name}")
        setattr(holder, last, value)


def _check_part(root: Any, holder: Any, part: str, place: str, name: str) -> None:
    """Raises ValueError unless `holder`, the value at `place`, has the field or key `part`."""
    if is_config(holder):
        if present := present_field(type(holder), part):
            raise ValueError(f"the field is now called {present!r}: use --{place}.{present}")
        known, what = [field.name for field in dataclasses.fields(holder)], f"{type(holder).__name__} has no field"
    elif isinstance(holder, dict):
        known, what = list(holder), f"{place} has no entry"
    else:
        raise ValueError(f"{place} is {truncated_repr(holder)}, which has no fields")
    if part not in known:
        hint = _suggestion(root, part, place, known, name)
        raise ValueError(f"{what} {truncated_repr(part)}.{hint} It has: {listed(known) or 'nothing'}.")


def _suggestion(root: Any, part: str, place: str, known: list[str], name: str) -> str:
    """The probable field: the same name in another section, else a similar one here, else a similar one anywhere."""
    rest = name[len(f"{place}.{part}") - len("config.") :]
    if close := near(part, known, 1, 0.85):
        return f" Did you mean --{place}.{close[0]}{rest}?"
    leaves = {path: path.rpartition(".")[2] for path, _, _ in walk(root)}
    last = name.rpartition(".")[2]
    elsewhere = [path for path, leaf in leaves.items() if near(last, [leaf], 1, 0.999)]
    if elsewhere:
        return f" Did you mean {' or '.join(f'--config.{path}' for path in elsewhere[:3])}?"
    if close := near(part, known, 1):
        return f" Did you mean --{place}.{close[0]}{rest}?"
    close = near(last, leaves.values(), 1)
    return f" Did you mean --config.{next(p for p, leaf in leaves.items() if leaf == close[0])}?" if close else ""


def _parse_like(text: str, value: Any, hint: Any, place: str) -> Any:
    if is_config(value):
        fields = ", ".join(field.name for field in dataclasses.fields(value))
        name = type(value).__name__
        raise ValueError(f"{place} is {name}(...): choose another one in the config file, or set its fields: {fields}")
    return parse(text, hint)


def _read(text: str, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_union(text, args)
    if hint is str:
        return text
    if hint in _SCALARS:
        return _SCALARS[hint](text)
    return _read_tuple(text, args) if origin is tuple else _literal(text)


def _read_union(text: str, args: Sequence[Any]) -> Any:
    """The value by the first member that can read the text; None is tried first, and str, which reads anything, last.

    If one text or several are allowed, a word without brackets and commas is one text.
    """
    if str in args and "," not in text and text[:1] not in ("(", "["):
        args = [arg for arg in args if typing.get_args(arg)[:1] != (str,)]
    for arg in sorted(args, key=lambda arg: (arg is not NONE) + (arg is str)):
        try:
            return parse(text, arg)
        except ValueError:
            continue
    return _NOTHING


def _read_tuple(text: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """ "32,64", "(32, 64)" or "[32, 64]"; words need no quotes."""
    value = _literal(text) if text[:1] in ("(", "[") else text
    if isinstance(value, list | tuple):
        return _tupled(value)
    words = [word.strip() for word in text.split(",")] if text else []
    hints = args[:1] * len(words) if args[1:] == (Ellipsis,) else args
    return tuple(parse(word, hint) for word, hint in zip(words, hints, strict=True))


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list | tuple) else value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # the last two for deep nesting
        return text


_NOTHING = object()
_SCALARS: dict[Any, Callable[[str], Any]] = {
    int: int,
    float: float,
    bool: lambda text: TRUTH[text.lower()],
    NONE: lambda text: {"none": None}[text.lower()],
}
