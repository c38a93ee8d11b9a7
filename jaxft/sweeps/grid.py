"""The points of a sweep: what --config.FIELD=VALUE,VALUE spans, and what is drawn from it.

Commas separate values where the field holds one value: a number, a text, a component. Where it holds several (a tuple,
a list), a comma belongs to the value, and semicolons separate values. LOW..HIGH is a range of numbers.
"""

import itertools
import math
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.config import Config, overrides
from jaxft.config.overrides import field_hint, unshared
from jaxft.problems import clipped

Point = tuple[tuple[str, str], ...]  # (field, text) pairs, as --config.FIELD=TEXT gives them
RANGE = re.compile(r"(?P<low>[^,;]*[^,;.])\.\.(?P<high>[^,;.][^,;]*)")
DIGITS = 4  # significant, of a number that is drawn


@dataclass(frozen=True)
class Span:
    """A field with several values, or with a range of them."""

    field: str
    values: tuple[str, ...] = ()
    low: float = 0.0  # of a range, both ends included
    high: float = 0.0
    whole: bool = False  # whether the range holds whole numbers

    @property
    def is_range(self) -> bool:
        return not self.values

    def draw(self, rng: np.random.Generator) -> str:
        """A value. Of a range: whole numbers evenly, others evenly on a logarithmic scale if `low` is positive."""
        if not self.is_range:
            return self.values[int(rng.integers(len(self.values)))]
        if self.whole:
            return str(rng.integers(int(self.low), int(self.high) + 1))
        if self.low > 0:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return f"{float(f'{value:.{DIGITS}g}')!r}"


def spanned(base: Config, settings: Point) -> tuple[list[Span], Point, list[str]]:
    """(the axes, the settings with one value, problems). Of two settings of one field, the later counts."""
    # The component that a setting chooses decides what its fields are: the first value of each stands for all.
    probe = unshared(base)
    overrides.override(
        probe, [(name, text if text[:1] in ("(", "[") else _first(text)) for name, text in settings], False
    )
    axes: list[Span] = []
    fixed: list[tuple[str, str]] = []
    problems: list[str] = []
    for name, text in dict(settings).items():
        try:
            axis = _axis(name, text, field_hint(probe, name))
        except ValueError as error:
            problems.append(f"--config.{clipped(name)}={clipped(text)}: {error}")
            continue
        if axis is None:
            fixed.append((name, text))
        else:
            axes.append(axis)
    return axes, tuple(fixed), problems


def _first(text: str) -> str:
    return re.split("[,;]", text)[0].partition("..")[0]


def _axis(name: str, text: str, hint: Any) -> Span | None:
    """The axis of a setting; None if it has one value. Raises ValueError with what is wrong."""
    numbers = {one for one in (hint, *typing.get_args(hint)) if one in (int, float)}
    if numbers and (found := RANGE.fullmatch(text)):
        return _range(name, found["low"], found["high"], float not in numbers)
    mark = "," if holds_one(hint) else ";"
    if hint is None or mark not in text:  # a field that there is not is one problem, whatever its values
        return None
    values = tuple(value.strip() for value in text.split(mark))
    if "" in values:
        raise ValueError(f"a value is empty: write one on each side of every {mark!r}")
    if twice := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{twice[0]} is there twice: leave one out")
    return Span(name, values)


def holds_one(hint: Any) -> bool:
    """Whether a field with this annotation holds one value, so that commas separate several."""
    several = (tuple, list, dict)
    return typing.get_origin(hint) not in several and hint not in several and all(map(holds_one, typing.get_args(hint)))


def _range(name: str, low: str, high: str, whole: bool) -> Span:
    try:
        ends = [int(end) if whole else float(end) for end in (low, high)]
    except ValueError:
        ends = []
    if not ends or not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
        what = "whole numbers" if whole else "numbers"
        raise ValueError(f"expected LOW..HIGH, two {what} of which the first is smaller")
    return Span(name, low=ends[0], high=ends[1], whole=whole)


def size(axes: list[Span]) -> int | None:
    """How many points the axes span; None: without limit, because one is a range."""
    return None if any(axis.is_range for axis in axes) else math.prod(len(axis.values) for axis in axes)


def grid(axes: list[Span]) -> Iterator[Point]:
    """All points of axes without a range, the last axis varying fastest."""
    fields = [axis.field for axis in axes]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield tuple(zip(fields, values, strict=True))


def drawn(axes: list[Span], count: int, seed: int = 0) -> list[Point]:
    """`count` different points (fewer if whole-number ranges hold fewer), drawn evenly; more points begin with the same
    ones. Bergstra and Bengio 2012."""
    rng = np.random.default_rng(seed)
    found: dict[Point, None] = {}
    for _ in range(100 * count + 1000):
        if len(found) == count:
            break
        found[tuple((axis.field, axis.draw(rng)) for axis in axes)] = None
    return list(found)
