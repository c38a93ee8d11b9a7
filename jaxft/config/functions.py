"""Functions in a configuration: config.loss and config.metrics."""

from collections.abc import Callable
from typing import Any

from jaxft.config.component import find_module
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
    module = find_module(f"{where} is {truncated_repr(value)}", module_name)
    found: Any = module
    for part in name.split("."):
        found = vars(found).get(part)
    if not callable(found):
        known = [key for key, item in vars(module).items() if callable(item)]
        raise UserError(f"{where} is {truncated_repr(value)}, which does not exist.{suggest(name, known)}")
    return found
