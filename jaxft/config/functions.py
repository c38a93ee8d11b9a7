"""Functions in a configuration: config.loss and config.metrics."""

from collections.abc import Callable
from typing import Any

from jaxft.config.component import find_module, is_trusted
from jaxft.problems import UserError, suggest, truncated_repr


def as_function(value: Any, where: str) -> Callable[..., Any]:
    """A function itself, or the one of the name "module:name". Raises UserError if there is none."""
    if callable(value):
        return value
    if not isinstance(value, str) or ":" not in value:
        raise UserError(f"{where} is {truncated_repr(value)}, expected a function, or its name 'MODULE:FUNCTION'")
    module_name, _, name = value.partition(":")
    if "<" in name:
        raise UserError(
            f"{where} is {truncated_repr(value)}, a function without a name of its own: only the program that made it "
            "has it. Define it with def at the top of a module."
        )
    if not is_trusted(module_name):  # that it is imported says nothing: os and subprocess are, too
        raise UserError(
            f"{where} is {truncated_repr(value)}, but a name may run any function. If you trust that module: "
            f"--allow-import={module_name}. In Python, give the function itself."
        )
    module = find_module(f"{where} is {truncated_repr(value)}", module_name)
    found: Any = module
    for part in name.split("."):
        found = vars(found).get(part) if found is module or isinstance(found, type) else None
    if not callable(found) or not _is_own(found, module_name):
        known = [key for key, item in vars(module).items() if callable(item) and _is_own(item, module_name)]
        raise UserError(f"{where} is {truncated_repr(value)}, which does not exist.{suggest(name, known)}")
    return found


def _is_own(function: Callable[..., Any], module_name: str) -> bool:
    """Whether the package of the module defines the function: a module also has what it imports, such as os.system."""
    return function.__module__ is not None and function.__module__.split(".")[0] == module_name.split(".")[0]
