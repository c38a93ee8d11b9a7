"""The order of a run: all epochs are concatenated and cut into steps, and the steps are grouped in windows.

Places count the examples of all epochs from 0: place p is in epoch p // examples.
"""

import math
from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple


class Window(NamedTuple):
    """Consecutive steps that are planned together, and the places of their examples."""

    first: int  # step
    start: int  # place
    stop: int  # place after the last


class Order:
    """The steps and windows of a run over `examples` examples, with `batch` examples per step.

    `ends` are ascending places: those at which the run ended before it was extended, and the one at which it ends now.
    The last step before an end may have fewer examples. A window has at most `most` steps of one epoch. A step that
    reaches into the next epoch, or has fewer examples, is a window of its own, so that sorting inside a window never
    moves an example out of its epoch or run.
    """

    def __init__(self, examples: int, batch: int, ends: tuple[int, ...], most: int):
        self.examples, self.batch, self.most = examples, batch, most
        self._starts, self._steps = [0, *ends], _steps(ends, batch)

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self._steps[-1]

    @property
    def ends(self) -> tuple[int, ...]:
        """The places at which the run ended and ends."""
        return tuple(self._starts[1:])

    def steps_to(self, end: int) -> int:
        """Steps before one of the ends."""
        return self._steps[self._starts.index(end)]

    def seen(self, steps: int) -> int:
        """Examples of the first `steps` steps: the place at which the next step begins."""
        part = max(bisect_right(self._steps, steps) - 1, 0)
        if part == len(self._starts) - 1:
            return self._starts[-1]
        return self._starts[part] + (steps - self._steps[part]) * self.batch

    def window(self, step: int) -> Window:
        """The window of a step. Raises IndexError if the run has no such step."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        place, after = self.seen(step), self.seen(step + 1)
        part = bisect_right(self._steps, step) - 1
        low, high = self._starts[part : part + 2]
        epoch = place // self.examples
        high = min(high, (epoch + 1) * self.examples)
        if after > high or after - place < self.batch:
            return Window(step, place, after)
        before = max(epoch * self.examples - low, 0)
        first = self._steps[part] + math.ceil(before / self.batch)  # the first step inside this epoch
        count = (high - low) // self.batch - (first - self._steps[part])  # number of these steps
        # Windows have nearly equal sizes.
        windows = math.ceil(count / self.most)
        number = ((step - first + 1) * windows - 1) // count
        begin, end = (first + count * edge // windows for edge in (number, number + 1))
        return Window(begin, self.seen(begin), self.seen(begin) + (end - begin) * self.batch)


def run_examples(examples: int, batch: int, steps: int | None, epochs: float | None) -> int:
    """The examples of a run of `steps` or of `epochs`, one of which is None; fractions are rounded up."""
    if steps is not None:
        return steps * batch
    if epochs is None:
        raise ValueError("a run has steps or epochs")
    return math.ceil(Fraction(repr(float(epochs))) * examples)  # exact decimals: 0.07 * 100 is 7, in floats 7.0...01


def run_ends(
    former: tuple[int, ...], examples: int, batch: int, steps: int | None, epochs: float | None
) -> tuple[int, ...]:
    """The places at which a run ends: its `former` ends, then that of its present `steps` or `epochs`."""
    end = run_examples(examples, batch, steps, epochs)
    if steps is not None and former:
        end = former[-1] + (steps - _steps(former, batch)[-1]) * batch
    return (*(place for place in former if place < end), end)


def _steps(ends: tuple[int, ...], batch: int) -> list[int]:
    """0, and the number of steps before each end."""
    return [0, *accumulate(-(-(stop - start) // batch) for start, stop in zip((0, *ends), ends, strict=False))]
