"""Command line flags that override a configuration: `--config.optim.decay=0.1`, `--config.optim=Lion`."""

import ast
import dataclasses
import logging
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from jaxft.config.choices import MISSING, blank, chosen, described, kind_of, missing, section_class
from jaxft.config.component import annotations, fits, is_config, type_name, walk
from jaxft.config.former_names import present_field
from jaxft.config.other_trainers import own_name
from jaxft.config.run import Eval
from jaxft.problems import clipped, listed, near, truncated_repr

log = logging.getLogger("jaxft")

NONE = type(None)
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclasses.dataclass
class _Choice:
    """A component that a setting put in the place of another one."""

    holder: Any
    key: str
    name: str  # dotted, of the field
    former: Any  # MISSING if there was none
    made: Any

    def undo(self) -> None:
        if self.former is not MISSING:
            _put(self.holder, self.key, self.former)
        elif isinstance(self.holder, dict):
            del self.holder[self.key]


def override(root: Any, settings: list[tuple[str, str]], told: bool = True) -> list[str]:
    """Assigns each (dotted name, text) in `root`; the annotation of the field says how the text is read.

    Components are chosen before their fields are set, so that the order of settings does not matter. Of two settings
    of one field, the later wins. Returns one sentence for each setting that is wrong or missing; the others are
    assigned, except that a component with such a setting is not put in its place. `told`: the log says which components
    are chosen.
    """
    problems: dict[int, str] = {}
    failed: set[str] = set()  # names whose settings are wrong
    choices = _new_sets(root, settings)
    for number, (name, text) in sorted(enumerate(settings), key=lambda item: item[1][0].count(".")):
        if any(_within(name, other) for other in failed):
            continue
        try:
            _assign(root, name, text, choices)
        except ValueError as error:
            problems[number] = f"--config.{clipped(name)}={clipped(text)}: {error}"
            failed.add(name)
    return [problems[number] for number in sorted(problems)] + _finish(choices, failed, told)


def field_hint(root: Any, name: str) -> Any:
    """The annotation of the field with this dotted name; None if `root` has no such field."""
    *places, last = name.split(".")
    holder = root
    for place in places:
        inner = holder if isinstance(holder, dict) else {key: getattr(holder, key) for key in _field_names(holder)}
        holder = inner.get(place)
    return annotations(type(holder)).get(last) if is_config(holder) else None


def _field_names(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value)] if is_config(value) else []


def _new_sets(root: Any, settings: list[tuple[str, str]]) -> list[_Choice]:
    """Adds the evaluation sets whose data are set, --config.evals.NAME.data=FILE, and which do not exist."""
    added = []
    for name, _ in settings:
        first, _, rest = name.partition(".")
        key, _, last = rest.partition(".")
        if (first, last) == ("evals", "data") and isinstance(root.evals, dict) and key not in root.evals:
            root.evals[key] = blank(Eval)
            added.append(_Choice(root.evals, key, f"evals.{key}", MISSING, root.evals[key]))
    return added


def _finish(choices: list[_Choice], failed: set[str], told: bool) -> list[str]:
    """Takes back components with missing fields, and returns their problems; says, if `told`, which ones are chosen."""
    problems: dict[str, str] = {}
    for choice in reversed(choices):
        if lacking := missing(choice.made, choice.name):
            problems |= {name: text for name, text in lacking if name not in failed}
            choice.undo()
    outer = {choice.name: choice for choice in choices if not any(_within(choice.name, o.name) for o in choices)}
    for name, choice in outer.items():
        if told and not missing(choice.made, name):
            first = next(other.former for other in choices if other.name == name)
            place = "added" if first is MISSING else f"in place of {described(first)}"
            log.info("config.%s: %s, %s", name, described(choice.made), place)
    return list(problems.values())


def _within(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")


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


def _assign(root: Any, name: str, text: str, choices: list[_Choice]) -> None:
    """Sets a field or the entry of a dict; a choice of a component is added to `choices`."""
    parts = name.split(".")
    holder = root
    for depth, part in enumerate(parts):
        place = ".".join(["config", *parts[:depth]])
        _check_part(root, holder, part, place, name)
        if depth < len(parts) - 1:
            inner = ".".join(parts[: depth + 1])
            holder = holder[part] if isinstance(holder, dict) else _entered(holder, part, inner, choices)
    last = parts[-1]
    if isinstance(holder, dict):
        holder[last] = _parse_like(text, holder[last], type(holder[last]), f"config.{name}")
        return
    former, hint = getattr(holder, last), annotations(type(holder))[last]
    kind = kind_of(type(holder), last)
    if kind is None or text.lower() == "none" and fits(None, hint):
        setattr(holder, last, _parse_like(text, former, hint, f"config.{name}"))
        return
    made = chosen(kind, text, f"config.{name}")
    setattr(holder, last, made)
    choices.append(_Choice(holder, last, name, former, made))


def _entered(holder: Any, field: str, name: str, choices: list[_Choice]) -> Any:
    """The value of a field of which a part is to be set; a new source, or optional section, where there is none."""
    value = getattr(holder, field)
    if value is None and (section := section_class(type(holder), field)) is not None:
        choices.append(_Choice(holder, field, name, value, blank(section)))
        setattr(holder, field, choices[-1].made)
    if (value is None or value is MISSING) and kind_of(type(holder), field) == "data":
        choices.append(_Choice(holder, field, name, value, chosen("data", "Data", name)))
        setattr(holder, field, choices[-1].made)
    return getattr(holder, field)


def _put(holder: Any, key: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[key] = value
    else:
        setattr(holder, key, value)


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
    if place == "config.evals" and rest.startswith(".data."):
        return _suggested_set(part, known, rest)
    if own := own_name(name.rpartition(".")[2]):
        return f" Did you mean --config.{own}?"
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


def _suggested_set(name: str, known: list[str], rest: str) -> str:
    close = near(name, known, 1)
    text = f" Did you mean --config.evals.{close[0]}{rest}?" if close else ""
    return f"{text} To add a set: --config.evals.{name}.data=FILE."


def _parse_like(text: str, value: Any, hint: Any, place: str) -> Any:
    if is_config(value):
        fields = ", ".join(field.name for field in dataclasses.fields(value))
        name = type(value).__name__
        raise ValueError(f"{place} is {name}(...), which is not chosen by name: set its fields: {fields}")
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
