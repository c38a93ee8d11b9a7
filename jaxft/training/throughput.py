"""How fast a run trains: useful tokens, steps and FLOPs a second; compiling, evaluating and saving do not count."""

import contextlib
import logging
import time
from collections.abc import Callable

import jax

from jaxft.host.memory import give_back
from jaxft.reports.summary import flops, memory_bytes, peak_flops
from jaxft.training.setup import Setup

log = logging.getLogger("jaxft")


class Throughput:
    """A stopwatch that is paused for everything but training steps."""

    def __init__(self, built: Setup):
        self.built, self.trained = built, set(built.trained)
        self.flops, self.steps = 0.0, 0
        self.mark = time.monotonic()
        self.shapes: dict[tuple, float] = {}  # FLOPs of a step by the shape of its batch

    def before(self, prepare: Callable, *args) -> None:
        """Call before each step with its arguments, the batch last: a shape that is new is compiled, by `prepare`."""
        batch = args[-1]
        shape = tuple(sorted((name, value.shape) for name, value in batch.items()))
        if shape not in self.shapes:
            with self.paused(args):
                start = time.monotonic()
                prepare(*args)
                give_back()
                rows, length = batch["tokens"].shape
                seconds = time.monotonic() - start
                log.info("compiled the training step for %d rows of %d tokens in %.1f s", rows, length, seconds)
            self.shapes[shape] = flops(self.built.model, self.trained, batch)
        self.steps += 1
        self.flops += self.shapes[shape]

    @contextlib.contextmanager
    def paused(self, pending):
        """Not to be counted. `pending` are arrays of the steps before, which the devices may still compute: that is
        waited for, since it counts."""
        jax.block_until_ready(pending)
        start = time.monotonic()
        yield
        self.mark += time.monotonic() - start

    def numbers(self, tokens: int) -> dict[str, float]:
        """Rates since the last call."""
        now = time.monotonic()
        seconds = max(now - self.mark, 1e-9)
        numbers = {"tokens_per_second": tokens / seconds, "steps_per_second": self.steps / seconds}
        numbers["memory_bytes"] = memory_bytes()
        if peak := peak_flops():
            numbers["mfu"] = self.flops / seconds / peak
        self.flops, self.steps, self.mark = 0.0, 0, now
        return numbers
