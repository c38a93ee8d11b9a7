"""report.html: a run on one page, made from the files of its work directory only.

    metrics.jsonl    curves, final metrics, throughput
    pictures.jsonl   `step`, `split` and `figures` (reports/figures.py) of each evaluation
    config.json      the configuration
    summary.json     data, sizes, machine, versions (training/facts.py); `model_step`: the step that model/ holds;
                     `model_score`: its value of save.best; `ended`: why the run ended early

The page is one file and needs no network. Its template is in jaxft/assets/report.
"""

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxft.host.output_file import replace_bytes
from jaxft.host.signals import Terminated
from jaxft.host.strict_json import dumps
from jaxft.problems import RunStopped, UserError
from jaxft.reports.page import page
from jaxft.reports.records import read_lines
from jaxft.reports.sinks import JsonLines

log = logging.getLogger("jaxft")

REFRESH_RATIO = 1000  # writing the page takes at most 1/1000 of a running run's time


class Report:
    """Writes the page of a work directory and the files that only the page needs, in the first process only."""

    def __init__(self, workdir: Path, facts: Mapping[str, Any]):
        self.workdir = workdir
        self.facts: dict[str, Any] = {**facts, "model_step": None, "model_score": None, "ended": None}
        self.writes = jax.process_index() == 0
        self.pictures: JsonLines | None = None
        self.last, self.cost = 0.0, 0.0  # seconds: time of the last writing of the page, and how long it took

    def open(self, start: int) -> None:
        """Opens pictures.jsonl for a run that continues after step `start`; drops later lines."""
        if self.writes:
            self.pictures = JsonLines(self.workdir / "pictures.jsonl", start)
            replace_text(self.workdir / "summary.json", self._summary())

    def close(self) -> None:
        """Closes pictures.jsonl."""
        if self.pictures is not None:
            self.pictures.close()

    def draw(self, step: int, split: str, figures: list[dict[str, Any]]) -> None:
        """Appends the figures of an evaluation to pictures.jsonl."""
        if self.pictures is not None and figures:
            self.pictures.append({"step": step, "split": split, "figures": figures})

    def refresh(self) -> None:
        """Writes the page during the run, if enough time has passed, so that a run that is killed leaves one, too."""
        if self.writes and time.monotonic() - self.last > REFRESH_RATIO * self.cost:
            self._write()

    @contextlib.contextmanager
    def at_the_end(self) -> Iterator[None]:
        """A context that writes the page at its end, also after an error."""
        try:
            yield
        except BaseException as error:
            self.facts["ended"] = reason(error)
            raise
        finally:
            # A run that was complete before keeps its page, unless the facts have changed.
            file, text = self.workdir / "summary.json", self._summary()
            unchanged = file.exists() and file.read_bytes() == text.encode("utf-8", "replace")
            if self.writes and not (unchanged and page_of(self.workdir).exists()):
                self._write()

    def _write(self) -> None:
        start = time.monotonic()
        try:
            replace_text(self.workdir / "summary.json", self._summary())
            write(self.workdir)
        except Exception:  # an error in the page must not end the run
            log.warning("report.html could not be written", exc_info=True)
        self.last = time.monotonic()
        self.cost = self.last - start

    def _summary(self) -> str:
        return dumps(self.facts, indent=2) + "\n"


def write(workdir: Path) -> None:
    """Writes the page of a work directory; does nothing before the first line of metrics.jsonl."""
    workdir = Path(workdir)
    metrics = read_lines(workdir / "metrics.jsonl")
    if metrics:
        config, summary = (json.loads((workdir / name).read_text()) for name in ("config.json", "summary.json"))
        pictures = read_lines(workdir / "pictures.jsonl")
        replace_text(page_of(workdir), page(workdir.absolute().name, metrics, pictures, config, summary))


def write_predictions(workdir: Path, split: str, files: Mapping[str, object]) -> None:
    """Writes the predictions of a set's latest evaluation. `files` maps the ending of a file's name to a JSON value:
    ".json" makes predictions/SPLIT.json."""
    for ending, value in files.items() if jax.process_index() == 0 else ():
        directory = Path(workdir) / "predictions"
        if directory.is_symlink():
            raise UserError(f"{directory} is a symbolic link, and what it points at would be changed: remove it")
        directory.mkdir(parents=True, exist_ok=True)
        replace_text(directory / (split + ending), dumps(value, ensure_ascii=False) + "\n")


def page_of(workdir: Path) -> Path:
    """The file of the page."""
    return Path(workdir) / "report.html"


def replace_text(file: Path, text: str) -> None:
    """Replaces the file atomically. A lone surrogate, which UTF-8 cannot encode, becomes `?`."""
    replace_bytes(file, text.encode("utf-8", "replace"))


def reason(error: BaseException) -> str:
    """Why a run ended early, in one line."""
    if isinstance(error, RunStopped):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted at the keyboard"
    if isinstance(error, Terminated):
        return "asked to end (SIGTERM)"
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
