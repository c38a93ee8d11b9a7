"""Where metrics are written: metrics.jsonl, terminal or notebook, and TensorBoard or Weights & Biases if configured."""

import contextlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from jaxft.host.output_file import replace_bytes
from jaxft.host.torch_free import without_torch
from jaxft.reports.notebook import Notebook, in_notebook
from jaxft.reports.progress import Lines, Terminal
from jaxft.reports.records import Record, earlier, line_of


def sink_problems(wandb: str | None) -> list[str]:
    """Why a configured sink is not available."""
    if wandb is None or importlib.util.find_spec("wandb"):
        return []
    return ["config.wandb is set but wandb is not installed: pip install 'jaxft[wandb]'"]


class Sink(Protocol):
    """Takes the metrics of a split ("train", or an evaluation set) at a step."""

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Writer:
    """Passes metrics on to every sink, in the first process only."""

    def __init__(self, workdir: str | Path, start: int, total: int, wandb: str | None = None, due: Sequence[str] = ()):
        """Drops lines of metrics.jsonl after step `start`, at which the run continues, and those of step `start` for
        the splits in `due`, which are evaluated again."""
        self.sinks: list[Sink] = []
        self.lines: JsonLines | None = None
        self.screen: Notebook | Terminal | Lines | None = None
        if jax.process_index() != 0:
            return
        self.lines = JsonLines(Path(workdir) / "metrics.jsonl", start, due)
        self.sinks.append(self.lines)
        if importlib.util.find_spec("tensorboardX"):
            self.sinks.append(TensorBoard(Path(workdir) / "tensorboard", start))
        if wandb is not None:
            self.sinks.append(WandB(wandb, workdir))
        self.screen = Notebook(total) if in_notebook() else Terminal(total) if sys.stderr.isatty() else Lines(total)
        self.sinks.append(self.screen)

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        """Writes the metrics of a split at a step."""
        for sink in self.sinks:
            sink.write(step, split, numbers)

    def activity(self, text: str) -> contextlib.AbstractContextManager[None]:
        """A context in which the screen shows what is going on."""
        return contextlib.nullcontext() if self.screen is None else self.screen.activity(text)

    def known(self) -> dict[str, Any]:
        """What a checkpoint records of metrics.jsonl: the number of lines, and the latest record of each split."""
        return {"lines": self.lines.count, "latest": list(self.lines.latest.values())} if self.lines else {}

    def close(self) -> None:
        """Closes every sink."""
        for sink in self.sinks:
            sink.close()


class JsonLines:
    """One JSON object a line. NaN and infinity, which JSON does not have, become null."""

    def __init__(self, path: Path, start: int, due: Sequence[str] = ()):
        kept = earlier(path, start, due)
        self.count = len(kept)
        self.latest = {record["split"]: record for _, record in kept}
        replace_bytes(path, b"".join(line for line, _ in kept))
        self.file = open(path, "ab")

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        finite = {
            name: value if value == value and abs(value) != float("inf") else None for name, value in numbers.items()
        }
        self.append({"step": step, "split": split, **finite})

    def append(self, record: Record) -> None:
        """Writes a record, which must have `step` and `split`, and flushes it for other readers."""
        self.file.write(line_of(record))
        self.file.flush()
        self.count += 1
        self.latest[record["split"]] = record

    def close(self) -> None:
        self.file.close()


class TensorBoard:
    """Event files for TensorBoard, by tensorboardX."""

    def __init__(self, directory: Path, start: int):
        with without_torch():
            from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(directory), purge_step=start + 1)

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A Weights & Biases run of a project. The same work directory continues the same run."""

    def __init__(self, project: str, workdir: str | Path):
        import wandb

        name = Path(workdir).absolute().name
        self.run = wandb.init(project=project, id=name, name=name, dir=str(workdir), resume="allow")

    def write(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        self.run.log({f"{split}/{name}": value for name, value in numbers.items()}, step=step)

    def close(self) -> None:
        self.run.finish()
