"""Typed configuration objects: dataclasses that can be written as JSON, walked and checked."""

import dataclasses
import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from jaxft.config.former_names import present_field, renamed
from jaxft.config.other_trainers import suggest_field
from jaxft.problems import UserError, raise_problems, suggest, truncated_repr

T = TypeVar("T")
# Metadata of fields.
NOT_JSON = {"json": False}  # its value is not written
ARGUMENT = {"compiled": "argument"}  # of an optimizer: a number that its compiled update gets as an argument
FUNCTION = {"json": "function"}  # a function, or a dict of them: written as "module:name" (config/functions.py)
_CLASSES: set[type] = set()  # all classes made by `config`
_TRUSTED: set[str] = set()  # modules that the user named with --allow-import


@typing.dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
def config(cls: type[T]) -> type[T]:
    """Makes `cls` a dataclass with slots and keyword-only arguments.

    It is not frozen, because command line flags assign to fields; treat objects as read-only after the run has started.
    The constructor raises a UserError with all unknown and missing fields.
    """
    made = dataclasses.dataclass(kw_only=True, slots=True)(cls)
    plain_init: Callable[..., None] = made.__init__

    @functools.wraps(plain_init)
    def checked_init(self: Any, *args: Any, **values: Any) -> None:
        raise_problems(field_problems(made, values, len(args)))
        plain_init(self, **values)

    made.__init__ = checked_init  # type: ignore[method-assign]  # the purpose of this decorator
    _CLASSES.add(made)
    return made


def to_json(obj: Any) -> Any:
    """JSON values; a config object becomes {"class": "module:Name", field: value, ...}, a tuple becomes a list.

    Raises UserError for values that JSON cannot express.
    """
    if is_config(obj):
        written = [field for field in dataclasses.fields(obj) if field.metadata != NOT_JSON]
        values = {field.name: getattr(obj, field.name) for field in written}
        values |= {field.name: _named(values[field.name]) for field in written if field.metadata == FUNCTION}
        fields = {name: to_json(value) for name, value in values.items()}
        return {"class": f"{type(obj).__module__}:{type(obj).__qualname__}", **fields}
    if isinstance(obj, dict):
        return {str(key): to_json(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [to_json(value) for value in obj]
    if obj is None or isinstance(obj, str | int | float):
        return obj
    raise UserError(
        f"a configuration holds {truncated_repr(obj)} ({type(obj).__name__}), which cannot be written as JSON"
    )


def with_defaults(saved: Any, like: Any) -> Any:
    """What `to_json` wrote, maybe in an earlier version, with the defaults of the fields that this version lacked.

    `like` is the object, or a part of one, with which it is compared; objects of another class stay as they are.
    """
    if isinstance(saved, list) and isinstance(like, list | tuple):
        return [with_defaults(one, like[i] if i < len(like) else None) for i, one in enumerate(saved)]
    if not isinstance(saved, dict):
        return saved
    if isinstance(like, dict):
        return {name: with_defaults(value, like.get(name)) for name, value in saved.items()}
    if not is_config(like) or saved.get("class") != f"{type(like).__module__}:{type(like).__qualname__}":
        return saved
    fields = {field.name: field for field in dataclasses.fields(like) if field.metadata != NOT_JSON}
    parts = {name: getattr(like, name) for name in fields}
    known = {name: with_defaults(value, parts.get(name)) for name, value in saved.items()}
    return known | {name: to_json(_default(field)) for name, field in fields.items() if name not in saved}


def _default(field: dataclasses.Field) -> Any:
    """The default of a field; None if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _named(value: Any) -> Any:
    """The name "module:name" in place of each function in a value; other values stay."""
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    plain = inspect.unwrap(value) if callable(value) else value  # of a function that jax.jit or another decorator wraps
    return f"{plain.__module__}:{plain.__qualname__}" if isinstance(plain, types.FunctionType) else value


def from_json(value: Any) -> Any:
    """The object that `to_json` wrote, in this version or an earlier one (config/former_names.py).

    JSON lists become tuples, unless the field is annotated as a list. Only modules of jaxft are imported: importing
    others would run their code, so the user must import them first.

    Raises UserError for a class or a field that does not exist.
    """
    return _from_json(renamed(value))


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "class" not in value:
        return {key: _from_json(item) for key, item in value.items()}
    cls = find_class(value["class"])
    return _construct(cls, {key: _from_json(item) for key, item in value.items() if key != "class"})


def modules_of(value: Any) -> set[str]:
    """The modules of the classes and functions in a configuration, without those of jaxft."""
    if isinstance(value, dict):
        return set().union(*map(modules_of, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(modules_of, value))
    if not is_config(value):
        return set()
    fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
    functions = [_named(item) for field, item in fields if field.metadata == FUNCTION]
    names = [name for one in functions for name in (one.values() if isinstance(one, dict) else [one]) if name]
    found = {type(value).__module__, *(name.partition(":")[0] for name in names)}
    return {name for name in found if not _ours(name)}.union(*(modules_of(item) for _, item in fields))


def is_config(obj: Any) -> bool:
    """Whether `obj` is an instance of a class made by `config`, or of a subclass."""
    return not _CLASSES.isdisjoint(type(obj).__mro__)


def walk(obj: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Yields (dotted name, dataclass field, value) for every leaf; config objects and dicts of them are entered."""
    for field in dataclasses.fields(obj):
        name, value = prefix + field.name, getattr(obj, field.name)
        if is_config(value):
            yield from walk(value, name + ".")
        elif isinstance(value, dict) and value and all(is_config(item) for item in value.values()):
            for key, item in value.items():
                yield from walk(item, f"{name}.{key}.")
        else:
            yield name, field, value


def type_problems(obj: Any, prefix: str = "config.") -> list[str]:
    """One sentence for each value in `obj` that its annotation does not allow. Protocols allow anything."""
    problems = []
    hints = annotations(type(obj))
    for field in dataclasses.fields(obj):
        name, value = prefix + field.name, getattr(obj, field.name)
        if not fits(value, hints[field.name]):
            kind, wanted = type(value).__name__, type_name(hints[field.name])
            problems.append(f"{name} is {truncated_repr(value)} ({kind}), expected {wanted}")
            continue
        for label, item in _children(name, value):
            problems += type_problems(item, label + ".")
    return problems


def annotations(cls: type) -> dict[str, Any]:
    """The resolved annotation of each field; Any if it cannot be resolved."""
    try:
        return typing.get_type_hints(cls)
    except NameError:  # a name that is imported under TYPE_CHECKING only
        return {f.name: Any if isinstance(f.type, str) else f.type for f in dataclasses.fields(cls)}


def fits(value: Any, hint: Any) -> bool:
    """Whether the annotation `hint` allows `value`. An int is a float; True is not an int."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fits(value, args[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and _fits_tuple(value, args)
    if origin is list:
        return isinstance(value, list) and all(fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if hint is Any:  # a class since Python 3.11, but isinstance does not accept it
        return True
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(hint, type) or getattr(hint, "_is_protocol", False) or origin is not None:
        return True
    return isinstance(value, hint)


def type_name(hint: Any) -> str:
    """An annotation as text: `float | None`; choices as they are written: `float | 'auto'`."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, args))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(type_name(arg) for arg in args)
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) and not args else str(hint).replace("typing.", "")


def unknown_field(cls: type, name: str) -> str:
    """The message for a field that `cls` does not have."""
    if present := present_field(cls, name):
        return f"{cls.__name__} has no field {truncated_repr(name)}: it is now called {present!r}"
    known = [field.name for field in dataclasses.fields(cls)]
    near_name = suggest_field(name, known)
    return f"{cls.__name__} has no field {truncated_repr(name)}.{near_name} Fields: {', '.join(known) or 'none'}."


def field_problems(cls: type, values: dict[str, Any], positional: int = 0) -> list[str]:
    """What is wrong with constructing `cls` from the fields `values` and a number of `positional` arguments."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    problems = [unknown_field(cls, name) for name in values if name not in fields]
    if positional:
        problems.append(f"{cls.__name__} takes its fields by name: {', '.join(f'{name}=...' for name in fields)}")
        return problems
    missing = dataclasses.MISSING
    needed = [name for name, f in fields.items() if f.default is missing and f.default_factory is missing]
    return problems + [f"{cls.__name__} needs a value for {name!r}" for name in needed if name not in values]


def _children(name: str, value: Any) -> list[tuple[str, Any]]:
    if is_config(value):
        return [(name, value)]
    if isinstance(value, dict):
        return [(f"{name}.{key}", item) for key, item in value.items() if is_config(item)]
    if isinstance(value, list | tuple):
        return [(f"{name}[{i}]", item) for i, item in enumerate(value) if is_config(item)]
    return []


def _fits_tuple(value: tuple, args: tuple) -> bool:
    if len(args) == 2 and args[1] is Ellipsis:
        return all(fits(item, args[0]) for item in value)
    return len(value) == len(args) and all(map(fits, value, args))


def find_class(name: Any) -> type:
    """The config class "module:Class". Raises UserError if there is none.

    Only names of classes that the module defines are followed, so that nothing else in it can be reached.
    """
    if not isinstance(name, str):
        raise UserError(f"the configuration names the class {truncated_repr(name)}, expected 'MODULE:CLASS'")
    module_name, _, class_name = name.partition(":")
    found: Any = find_module(f"the configuration names the class {truncated_repr(name)}", module_name)
    for part in class_name.split("."):
        names = vars(found)
        found = names.get(part)
        if found is None:
            near_name = suggest(class_name, [key for key, item in names.items() if isinstance(item, type)])
            raise UserError(
                f"the configuration names the class {truncated_repr(name)}, which does not exist.{near_name}"
            )
        if not isinstance(found, type) or found.__module__ != module_name:
            break
    if not isinstance(found, type) or found.__module__ != module_name or _CLASSES.isdisjoint(found.__mro__):
        raise UserError(f"the configuration names {truncated_repr(name)}, which is not a config class")
    return found


def find_module(named: str, module_name: str) -> types.ModuleType:
    """A module that is already imported, or one of jaxft. `named` begins the message of the UserError for others."""
    if sys.modules.get(module_name) is not None:
        return sys.modules[module_name]
    if not all(map(str.isidentifier, module_name.split("."))):
        raise UserError(f"{named}, expected 'MODULE:NAME'")
    if not _ours(module_name):
        raise UserError(
            f"{named}, but importing {truncated_repr(module_name)} runs its code. If you trust that module: "
            f"--allow-import={module_name}. In Python, import it first."
        )
    try:
        return importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise UserError(f"{named}, but the module {truncated_repr(module_name)} cannot be imported ({error})") from None


def trust(module_name: str) -> None:
    """From now on a configuration may name functions of this module."""
    _TRUSTED.add(module_name)


def is_trusted(module_name: str) -> bool:
    """Whether a configuration may name functions of this module: it is one of jaxft, or the user trusts it."""
    return _ours(module_name) or module_name in _TRUSTED


def _ours(module_name: str) -> bool:
    return module_name.split(".")[0] == "jaxft"


def _construct(cls: type, values: dict[str, Any]) -> Any:
    raise_problems(field_problems(cls, values))
    hints = annotations(cls)
    return cls(**{name: as_hinted(value, hints[name]) for name, value in values.items()})


def as_hinted(value: Any, hint: Any) -> Any:
    """`value` with lists in place of tuples where the annotation names lists."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((turned for arg in args if fits(turned := as_hinted(value, arg), arg)), value)
    if isinstance(value, tuple) and (origin is list or hint is list):
        return [as_hinted(item, args[0] if args else Any) for item in value]
    if isinstance(value, dict) and origin is dict:
        return {key: as_hinted(item, args[1]) for key, item in value.items()}
    return value
