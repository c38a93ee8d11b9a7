"""The speed of a run: tokens (without padding), steps and FLOPs per second of training, without the time for
compiling, evaluating and saving."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxft.host.memory import peak_bytes, release_memory
from jaxft.training.flops import peak_flops, step_flops
from jaxft.training.setup import Setup

log = logging.getLogger("jaxft")


Activity = Callable[[str], contextlib.AbstractContextManager[None]]


class Throughput:
    """A stopwatch that is paused for everything but training steps."""

    def __init__(self, built: Setup, count: int = 1, activity: Activity = lambda text: contextlib.nullcontext()):
        """`count` shapes are expected; `activity` shows a text while something is going on."""
        self.built, self.trained, self.count, self.activity = built, set(built.trained), count, activity
        self.flops, self.steps = 0, 0
        self.mark = time.monotonic()
        self.shapes: dict[tuple, int] = {}  # FLOPs of a step by the shapes of its batch

    def before(self, compile_step: Callable[..., None], *args: Any) -> None:
        """To be called before each step. `args` are the step's arguments, the batch last; if its shapes are new,
        `compile_step(*args)` is called, without being timed."""
        batch = args[-1]
        shapes = tuple(sorted((name, value.shape) for name, value in batch.items()))
        if shapes not in self.shapes:
            with self.paused(args):
                start = time.monotonic()
                rows, length = batch["tokens"].shape
                with self.activity(f"compiling {len(self.shapes) + 1} of {self.count} shapes, {rows} x {length}"):
                    compile_step(*args)
                release_memory()
                seconds = time.monotonic() - start
                log.info("compiled the training step for %d rows of %d tokens in %.1f s", rows, length, seconds)
                self.shapes[shapes] = step_flops(self.built.model, self.trained, batch)
        self.steps += 1
        self.flops += self.shapes[shapes]

    @contextlib.contextmanager
    def paused(self, pending: Any) -> Iterator[None]:
        """Stops the watch for a `with` block, after waiting for the arrays of `pending` (a pytree), which the devices
        may still be computing: that time counts."""
        jax.block_until_ready(pending)
        start = time.monotonic()
        yield
        self.mark += time.monotonic() - start

    def numbers(self, tokens: int) -> dict[str, float]:
        """Rates since the last call, in which `tokens` tokens were trained on, and the most memory in use so far."""
        now = time.monotonic()
        seconds = max(now - self.mark, 1e-9)
        numbers: dict[str, float] = {"tokens_per_second": tokens / seconds, "steps_per_second": self.steps / seconds}
        numbers["memory_bytes"] = memory_bytes()
        if peak := peak_flops():
            numbers["mfu"] = self.flops / seconds / peak
        self.flops, self.steps, self.mark = 0, 0, now
        return numbers


def memory_bytes() -> int:
    """The most memory in use so far, in bytes: of the fullest local device, or of this process on CPU."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return max(stat["peak_bytes_in_use"] for stat in stats)
    return peak_bytes()
