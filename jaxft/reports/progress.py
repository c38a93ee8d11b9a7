"""The progress of a run on a terminal, or as lines of a log file."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any


class Lines:
    """Plain lines on stderr, for log files."""

    def __init__(self, total: int):
        self.total, self.clock = total, Clock(total)

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        text = describe(step, self.total, split, numbers, self.clock.remaining(step, split))
        print(text, file=sys.stderr, flush=True)

    def activity(self, text: str) -> contextlib.AbstractContextManager[None]:
        """Shows nothing: a log file has a line when it is over."""
        return contextlib.nullcontext()

    def close(self) -> None:
        pass


class Terminal:
    """A live line at the bottom of the terminal, with evaluations above it."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.text import Text

        self.total, self.clock = total, Clock(total)
        console = Console(stderr=True)
        self.doing: tuple[str, float] | None = None  # what is going on between steps, and since when

        class Doing(TextColumn):
            """The latest log point, or what is going on and for how long; rich draws it ten times a second."""

            def render(column, task: Any) -> Text:
                return Text(task.description if self.doing is None else self.now(*self.doing))

        self.progress = Progress(BarColumn(20), Doing("{task.description}"), console=console)
        self.task = self.progress.add_task("starting", total=total)
        self.progress.start()

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        text = describe(step, self.total, split, numbers, self.clock.remaining(step, split))
        if split == "train":
            self.progress.update(self.task, completed=step, description=text)
        else:
            self.progress.console.print(text, markup=False, highlight=False)

    def now(self, text: str, since: float) -> str:
        return f"{text}, {time.monotonic() - since:.0f} s"

    @contextlib.contextmanager
    def activity(self, text: str) -> Iterator[None]:
        """Shows `text` and the seconds so far in the live line."""
        self.doing = text, time.monotonic()
        try:
            yield
        finally:
            self.doing = None

    def close(self) -> None:
        self.progress.stop()


class Clock:
    """Estimates the time left. The first log point starts the clock, so that compilation does not count."""

    def __init__(self, total: int):
        self.total = total
        self.start: tuple[int, float] | None = None  # step and time of the first log point

    def remaining(self, step: int, split: str) -> float | None:
        """Seconds, or None while unknown."""
        if split != "train":
            return None
        if self.start is None:
            self.start = (step, time.monotonic())
            return None
        steps, seconds = step - self.start[0], time.monotonic() - self.start[1]
        return seconds / steps * (self.total - step) if steps else None


def describe(step: int, total: int, split: str, numbers: Mapping[str, float], remaining: float | None) -> str:
    """Metrics as one line of text. `remaining` is the time left in seconds."""
    if split != "train":
        return f"step {step} {split}: " + ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
    parts = [f"step {step}/{total}", f"loss {numbers['loss']:.4f}"]
    if "weighted_loss" in numbers:
        parts.append(f"weighted loss {numbers['weighted_loss']:.4f}")
    parts.append(f"lr {numbers['learning_rate']:.2e}")
    if "tokens_per_second" in numbers:
        parts.append(f"{numbers['tokens_per_second']:,.0f} tok/s")
    if "mfu" in numbers:
        parts.append(f"MFU {numbers['mfu']:.1%}")
    if "memory_bytes" in numbers:
        parts.append(f"{numbers['memory_bytes'] / 2**30:.2f} GiB")
    if numbers.get("skipped"):
        parts.append(f"skipped {numbers['skipped']:.0f}")
    if remaining is not None:
        parts.append(f"{duration(remaining)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """3:07 or 1:02:07."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
