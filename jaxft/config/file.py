"""Loads configuration files: Python files whose function `get_config` returns a Config."""

import contextlib
import importlib
import inspect
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from jaxft.config import Config, from_config_dict
from jaxft.config.component import trust
from jaxft.config.config_dict import is_config_dict
from jaxft.config.recipes import home, is_recipe, recipe, recipes
from jaxft.host.startup import importable
from jaxft.problems import UserError, near, raise_problems, truncated_repr

log = logging.getLogger("jaxft")
T = TypeVar("T")


def load(spec: str) -> Config:
    """The configuration of "FILE.py" or "FILE.py:ARG"; get_config gets ARG as a string.

    "NAME" or "NAME:ARG" is NAME.py in the current directory, else a recipe.

    Raises UserError for all errors in the file, with the line.
    """
    path, argument = _found(spec, "get_config")
    with _neighbours(path):
        module = _run(path, lambda: _import(path))
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise UserError(f"{path} has no function get_config: define one that returns the Config")
        _check_arguments(path, get_config, argument)
        cfg = _run(path, lambda: get_config(*argument))
    if is_config_dict(cfg):
        return from_config_dict(cfg)
    if not isinstance(cfg, Config):
        kind = type(cfg).__name__
        raise UserError(
            f"{path}: get_config returned {truncated_repr(cfg)} ({kind}), expected a jaxft.config.run.Config"
        )
    return cfg


def load_suite(spec: str) -> tuple[Path, dict[str, Any], Callable[[str], str]]:
    """(file, tasks, configuration) of a suite "FILE.py" or "FILE.py:DIR".

    The tasks by name come from the function `get_entries` of the file; `configuration(task)` is what `load` takes. DIR
    has the data; without it, they come from the hub.
    """
    path, directory = _found(spec, "get_entries")
    with _neighbours(path):
        get_entries = getattr(_run(path, lambda: _import(path)), "get_entries", None)
        if not callable(get_entries):
            raise UserError(f"{path} has no function get_entries, so it is not a suite: is it a file for --config?")
        entries = _run(path, lambda: get_entries(*directory))
    return path, entries, lambda task: f"{path}:{'@'.join([task, *directory])}"


def import_modules(names: str) -> None:
    """Imports the modules that the user trusts, separated by commas, because a run's configuration names their classes.

    Raises UserError for modules that cannot be imported.
    """
    problems: list[str] = []
    for name in filter(None, names.split(",")):
        try:
            with importable(*_recipes_folder(Path(*name.split(".")).with_suffix(".py"))):
                importlib.import_module(name)
            trust(name)
        except Exception as error:  # the user's code may raise anything
            problems.append(f"--allow-import={name}: {type(error).__name__}: {error}")
    raise_problems(problems)


def split(spec: str) -> tuple[Path, list[str]]:
    """The file and its argument, if there is one: "a/tiny.py:large" -> (a/tiny.py, ["large"])."""
    with_argument = re.fullmatch(r"(.*?\.py):(.*)", spec, re.DOTALL)
    return (Path(with_argument[1]), [with_argument[2]]) if with_argument else (Path(spec), [])


def _found(spec: str, function: str) -> tuple[Path, list[str]]:
    """The file that a specification means, and its argument. Raises UserError if there is none."""
    path, argument = split(spec)
    name, colon, rest = spec.partition(":")
    if name.isidentifier() and not path.is_file():
        path, argument = Path(f"{name}.py"), [rest] if colon else []
        if not path.is_file():
            path = recipe(name)
        if path.is_file():
            log.info("configuration: %s", path if path.is_absolute() else f"{path} in the current directory")
    if not path.is_file():
        raise UserError(_missing(Path(name) if name.isidentifier() else path, function))
    return path, argument


def _neighbours(path: Path) -> contextlib.AbstractContextManager[None]:
    """A context in which a file can import modules of the current directory, and a recipe first those of configs/."""
    return importable(*[str(home())] * is_recipe(path))


def _recipes_folder(module: Path) -> list[str]:
    """The folder that has a module of configs/, such as configs/corpora.py, unless the current directory has it."""
    ours = module.parts[0] == "configs" and not module.is_file() and (home() / module).is_file()
    return [str(home())] * ours


def _import(path: Path) -> ModuleType:
    """Runs the file as the module that Python would import, so that its classes can be found by name."""
    name = _module_name(path)
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses resolve annotations that are strings here
    # Python's cache of compiled files would miss a change of the same size within a second.
    exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    return module


def _module_name(path: Path) -> str:
    if is_recipe(path) and _is_free(name := f"configs.{path.stem}", path):  # wherever it is installed
        return name
    for place in sys.path:
        relative = os.path.relpath(path.resolve(), Path(place or ".").resolve())
        parts = relative.removesuffix(".py").split(os.sep)
        name = ".".join(parts)
        if all(map(str.isidentifier, parts)) and parts[0] not in sys.stdlib_module_names and _is_free(name, path):
            return name
    return f"config_file_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}"


def _is_free(name: str, path: Path) -> bool:
    """Whether no other file is loaded under that name."""
    return name not in sys.modules or _same(getattr(sys.modules[name], "__file__", None) or "", path)


def _run(path: Path, what: Callable[[], T]) -> T:
    """Calls `what`, which runs the user's file; errors become UserErrors with the line of the file."""
    try:
        return what()
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from None
    except UserError as error:
        raise UserError([f"{_line(path, error)}: {text}" for text in error.problems]) from None
    except Exception as error:
        raise UserError(f"{_line(path, error)}: {type(error).__name__}: {error}{_origin(path, error)}") from error


def _line(path: Path, error: Exception) -> str:
    """The line of the user's file in the traceback."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _origin(path: Path, error: Exception) -> str:
    """Where the error was raised, if that is not the user's file."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if _same(last.filename, path) or last.filename.startswith("<"):
        return ""
    return f" (raised in {last.filename}, line {last.lineno})"


def _same(name: str, path: Path) -> bool:
    return os.path.abspath(name) == os.path.abspath(path)


def _check_arguments(path: Path, get_config: Callable[..., Any], argument: list[str]) -> None:
    try:
        inspect.signature(get_config).bind(*argument)
    except TypeError:
        given = (
            f"{truncated_repr(argument[0])} was given after the file name"
            if argument
            else "none was given: FILE.py:ARG"
        )
        wants = f"get_config{inspect.signature(get_config)}"
        raise UserError(f"{path}: {wants} does not fit the argument; {given}") from None


def _missing(path: Path, function: str) -> str:
    if path.is_dir():
        files = sorted(map(str, path.glob("*.py")))
        return f"--config={path} is a directory. Choose a file in it: {', '.join(files[:8]) or 'it has no .py file'}."
    folders = {path.parent, Path("configs"), Path(".")}
    files = sorted({str(file) for folder in folders for file in folder.glob("*.py")})
    known = {} if path.suffix else {name: name for name in recipes(function)}
    by_stem = {Path(file).stem: file for file in files} | known
    close = [by_stem[stem] for stem in near(path.stem, by_stem)]
    text = f"there is no configuration file {str(path)!r}."
    text += f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return text + (f" Recipes: {', '.join(known)}." if known else "")
