"""Which examples of a run each step sees: the epochs laid end to end, cut into steps, and the steps grouped in windows.

Places count the examples of all epochs from 0: place p is of epoch p // examples.
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
    """The windows of a run over `examples` examples, `batch` a step.

    `ends` are the places at which the run ended, and was extended from, and the last one the place at which it ends
    now; each is more than the one before. The last step before an end holds what is left, which may be less than
    `batch`. A window holds at most `most` steps, of one epoch only: a step that reaches into the next epoch, and one
    that is short, is a window by itself. So sorting inside a window never takes an example out of its epoch or run.
    """

    def __init__(self, examples: int, batch: int, ends: tuple[int, ...], most: int):
        self.examples, self.batch, self.most = examples, batch, most
        self._starts = [0, *ends]
        sizes = [math.ceil((stop - start) / batch) for start, stop in zip(self._starts, ends, strict=False)]
        self._steps = [0, *accumulate(sizes)]  # steps before each start

    @property
    def steps(self) -> int:
        return self._steps[-1]

    def seen(self, steps: int) -> int:
        """Examples of the first `steps` steps: the place where the next one begins."""
        part = max(bisect_right(self._steps, steps) - 1, 0)
        if part == len(self._starts) - 1:
            return self._starts[-1]
        return self._starts[part] + (steps - self._steps[part]) * self.batch

    def window(self, step: int) -> Window:
        """The window of a step. Raises IndexError where the run has no such step."""
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
        first = self._steps[part] + math.ceil(before / self.batch)  # whole steps of this epoch: from here
        count = (high - low) // self.batch - (first - self._steps[part])  # so many
        # In windows of nearly equal size.
        windows = math.ceil(count / self.most)
        number = ((step - first + 1) * windows - 1) // count
        begin, end = (first + count * edge // windows for edge in (number, number + 1))
        return Window(begin, self.seen(begin), self.seen(begin) + (end - begin) * self.batch)


def run_examples(examples: int, batch: int, steps: int | None, epochs: float | None) -> int:
    """How many examples a run of so many steps or epochs sees. Of 0.3 epochs the first 0.3 of the epoch, rounded up."""
    if steps is not None:
        return steps * batch
    return math.ceil(Fraction(repr(float(epochs))) * examples)  # as it is written: 0.07 of 100 is 7, in floats 7.0...01
