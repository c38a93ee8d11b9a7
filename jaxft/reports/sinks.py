"""Where a run's numbers go: metrics.jsonl, the terminal, and TensorBoard or Weights & Biases where asked for."""

import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxft.host.output_file import replace_bytes
from jaxft.host.torch_free import without_torch
from jaxft.reports.records import earlier, line_of


def sink_problems(wandb: str | None) -> list[str]:
    """What is asked for but cannot be had."""
    if wandb is None or importlib.util.find_spec("wandb"):
        return []
    return ["config.wandb is set but wandb is not installed: pip install 'jaxft[wandb]'"]


class Writer:
    """Takes (step, split, numbers) and hands them to every sink. Only the first process of a pod writes."""

    def __init__(self, workdir, start: int, total: int, wandb: str | None = None, due: Sequence[str] = ()):
        """Lines of metrics.jsonl after step `start`, of a part of the run that was lost, are cut off.

        So are those of step `start` itself for the splits of `due`, which are to be evaluated again.
        """
        self.sinks, self.lines = [], None
        if jax.process_index() != 0:
            return
        self.lines = JsonLines(Path(workdir) / "metrics.jsonl", start, due)
        self.sinks.append(self.lines)
        if importlib.util.find_spec("tensorboardX"):
            self.sinks.append(TensorBoard(Path(workdir) / "tensorboard", start))
        if wandb is not None:
            self.sinks.append(WandB(wandb, workdir))
        self.sinks.append(Terminal(total) if sys.stderr.isatty() else Lines(total))

    def write(self, step: int, split: str, numbers: dict[str, float]) -> None:
        for sink in self.sinks:
            sink.write(step, split, numbers)

    def known(self) -> dict:
        """What a checkpoint keeps of metrics.jsonl: how many lines it has, and the latest of each split."""
        return {"lines": self.lines.count, "latest": list(self.lines.latest.values())} if self.lines else {}

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


class JsonLines:
    """One object a line. A number that JSON cannot hold (NaN, infinity) becomes null."""

    def __init__(self, path: Path, start: int, due: Sequence[str] = ()):
        kept = earlier(path, start, due)
        self.count = len(kept)
        self.latest = {record["split"]: record for _, record in kept}
        replace_bytes(path, b"".join(line for line, _ in kept))
        self.file = open(path, "ab")

    def write(self, step, split, numbers):
        finite = {
            name: value if value == value and abs(value) != float("inf") else None for name, value in numbers.items()
        }
        self.append({"step": step, "split": split, **finite})

    def append(self, record: dict):
        """One line, which is there at once for whoever reads along; it must have a `step` and a `split`."""
        self.file.write(line_of(record))
        self.file.flush()
        self.count += 1
        self.latest[record["split"]] = record

    def close(self):
        self.file.close()


class TensorBoard:
    """Event files for TensorBoard, through tensorboardX."""

    def __init__(self, directory: Path, start: int):
        with without_torch():
            from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(directory), purge_step=start + 1)

    def write(self, step, split, numbers):
        for name, value in numbers.items():
            self.writer.add_scalar(f"{split}/{name}", value, step)

    def close(self):
        self.writer.close()


class WandB:
    """A Weights & Biases run of the given project; the same work directory continues the same run."""

    def __init__(self, project: str, workdir):
        import wandb

        name = Path(workdir).absolute().name
        self.run = wandb.init(project=project, id=name, name=name, dir=str(workdir), resume="allow")

    def write(self, step, split, numbers):
        self.run.log({f"{split}/{name}": value for name, value in numbers.items()}, step=step)

    def close(self):
        self.run.finish()


class Lines:
    """Plain lines on stderr, for logs."""

    def __init__(self, total: int):
        self.total, self.clock = total, Clock(total)

    def write(self, step, split, numbers):
        print(
            describe(step, self.total, split, numbers, self.clock.remaining(step, split)), file=sys.stderr, flush=True
        )

    def close(self):
        pass


class Terminal:
    """A live line at the bottom of the terminal; evaluations stay above it."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.total, self.clock = total, Clock(total)
        console = Console(stderr=True)
        self.progress = Progress(BarColumn(20), TextColumn("{task.description}"), console=console)
        self.task = self.progress.add_task("starting", total=total)
        self.progress.start()

    def write(self, step, split, numbers):
        text = describe(step, self.total, split, numbers, self.clock.remaining(step, split))
        if split == "train":
            self.progress.update(self.task, completed=step, description=text)
        else:
            self.progress.console.print(text, markup=False, highlight=False)

    def close(self):
        self.progress.stop()


class Clock:
    """Time left, from the pace of the run so far. The first log point only starts the clock: compiling is no pace."""

    def __init__(self, total: int):
        self.total, self.start = total, None

    def remaining(self, step: int, split: str) -> float | None:
        """Seconds, or None while unknown."""
        if split != "train":
            return None
        if self.start is None:
            self.start = (step, time.monotonic())
            return None
        steps, seconds = step - self.start[0], time.monotonic() - self.start[1]
        return seconds / steps * (self.total - step) if steps else None


def describe(step: int, total: int, split: str, numbers: dict[str, float], remaining: float | None) -> str:
    """One line for people."""
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
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
