"""The numbers that a field may hold: declared in its annotation, checked here.

    class Linear:
        warmup: NonNegative = 0.1

A range is part of the annotation (`typing.Annotated`), also inside others: `tuple[Count, ...]`, `Positive | None`. No
range allows NaN and infinities.
"""

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

from jaxft.config.component import fits
from jaxft.config.protocols import Checked

INT = 2**31 - 1  # sizes, lengths and steps are int32 on the devices
TINY = 2.0**-126  # the smallest normal float32; smaller numbers may become 0


@dataclasses.dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included, unless `beyond` contains "low" or "high"."""

    low: float = -math.inf
    high: float = math.inf
    beyond: tuple[str, ...] = ()

    def problem(self, value: float) -> str | None:
        """What is expected instead of `value`, as text; None if it is in the range."""
        low = self.low < value if "low" in self.beyond else self.low <= value
        high = value < self.high if "high" in self.beyond else value <= self.high
        finite = abs(value) <= sys.float_info.max  # math.isfinite raises OverflowError for larger integers
        if finite and low and high:
            return None
        if not finite:
            return f"a finite number, {self}" if str(self) else "a finite number"
        return f"at most {INT}" if low and self.high == INT else str(self)

    def __str__(self) -> str:
        """The limits as text; the limit of int32 is left out."""
        below = self.low > -math.inf
        above = self.high not in (INT, math.inf)
        if below and above and not self.beyond:
            return f"from {self.low:.12g} to {self.high:.12g}"
        low = f"more than {self.low:.12g}" if "low" in self.beyond else f"{self.low:.12g} or more"
        high = f"less than {self.high:.12g}" if "high" in self.beyond else f"at most {self.high:.12g}"
        return " and ".join([low] * below + [high] * above)


Count = Annotated[int, Range(1, INT)]
NonNegativeInt = Annotated[int, Range(0, INT)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(0.0, beyond=("low",))]
NonNegative = Annotated[float, Range(0.0)]
Epsilon = Annotated[float, Range(TINY)]
Fraction = Annotated[float, Range(0.0, 1.0)]  # both ends included
InnerFraction = Annotated[float, Range(0.0, 1.0, ("low", "high"))]
ProperFraction = Annotated[float, Range(0.0, 1.0, ("high",))]  # 0 included, 1 excluded


def problems_of(obj: Any, *context: Any) -> list[str]:
    """The problems of a config object: numbers out of range, and those of its own `problems(*context)`."""
    own = obj.problems(*context) if isinstance(obj, Checked) else []
    return range_problems(obj) + own


def range_problems(obj: Any) -> list[str]:
    """A sentence for each number of a config object that is out of its range; nested objects are not checked.

    `type_problems` checks values that their annotations do not allow.
    """
    found: list[str] = []
    for name, hint in hints(type(obj)).items():
        value = getattr(obj, name)
        if fits(value, hint):
            none = ", or None" if fits(None, hint) else ""
            wrong = dict.fromkeys(pair for pair in _expected(value, hint) if pair[1] is not None)
            found += [f"{name} {'is' if x is value else 'holds'} {x}, expected {text}{none}" for x, text in wrong]
    return found


def hints(cls: type) -> dict[str, Any]:
    """The annotation of each field, with its ranges; Any if it cannot be resolved."""
    try:
        found = typing.get_type_hints(cls, include_extras=True)
        return {field.name: found[field.name] for field in dataclasses.fields(cls)}
    except NameError:  # a name that is imported under TYPE_CHECKING only
        return {field.name: Any if isinstance(field.type, str) else field.type for field in dataclasses.fields(cls)}


def undeclared(hint: Any) -> bool:
    """Whether an annotation contains a number type without a range."""
    if typing.get_origin(hint) is Annotated:
        return False
    return hint in (int, float) or any(undeclared(arg) for arg in typing.get_args(hint))


def _expected(value: Any, hint: Any) -> Iterator[tuple[float, str | None]]:
    """Each number in `value`, and what is expected instead; None if it is in its range."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        yield value, args[1].problem(value)
    elif origin in (typing.Union, types.UnionType):
        yield from _expected(value, next(arg for arg in args if fits(value, arg)))
    elif origin is tuple:
        items = args[:1] * len(value) if args[1:] == (Ellipsis,) else args
        for item, item_hint in zip(value, items, strict=True):
            yield from _expected(item, item_hint)
    elif origin is list:
        for item in value:
            yield from _expected(item, args[0])
    elif origin is dict:
        for item in value.values():
            yield from _expected(item, args[1])
    elif isinstance(value, float) and not math.isfinite(value):
        yield value, "a finite number"
