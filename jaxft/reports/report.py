"""report.html: a run on one page, made of nothing but what lies in its work directory.

    metrics.jsonl    curves, final metrics, throughput
    pictures.jsonl   `step`, `split`, `figures` (jaxft/reports/figures.py) of each evaluation
    config.json      the configuration
    summary.json     data, sizes, machine, versions (reports/facts.py); `model_step`: what model/ holds; `model_score`:
                     its value of save.best; `ended`: why early

The page is one file that needs no network; its template lies in jaxft/assets/report.
"""

import contextlib
import json
import logging
import time
from pathlib import Path

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
    """Keeps the page of a work directory. Only the first process of a pod writes."""

    def __init__(self, workdir: Path, facts: dict):
        self.workdir, self.facts = workdir, {**facts, "model_step": None, "model_score": None, "ended": None}
        self.writes = jax.process_index() == 0
        self.pictures = None
        self.last, self.cost = 0.0, 0.0  # when the page was written, how long that took; seconds

    def open(self, start: int) -> None:
        """Pictures after step `start`, of a part of the run that was lost, are cut off."""
        if self.writes:
            self.pictures = JsonLines(self.workdir / "pictures.jsonl", start)
            replace_text(self.workdir / "summary.json", self._summary())

    def close(self) -> None:
        if self.pictures is not None:
            self.pictures.close()

    def draw(self, step: int, split: str, figures: list[dict]) -> None:
        """Keep an evaluation's figures."""
        if self.pictures is not None and figures:
            self.pictures.append({"step": step, "split": split, "figures": figures})

    def refresh(self) -> None:
        """Write the page while the run goes on, if that is due: a run that is killed leaves one too."""
        if self.writes and time.monotonic() - self.last > REFRESH_RATIO * self.cost:
            self._write()

    @contextlib.contextmanager
    def at_the_end(self):
        """Write the page when what is inside ends, however it ends."""
        try:
            yield
        except BaseException as error:
            self.facts["ended"] = reason(error)
            raise
        finally:
            # The page of a run that was complete before is left alone, unless it says something else.
            file, text = self.workdir / "summary.json", self._summary()
            said = file.exists() and file.read_bytes() == text.encode("utf-8", "replace")
            if self.writes and not (said and page_of(self.workdir).exists()):
                self._write()

    def _write(self) -> None:
        start = time.monotonic()
        try:
            replace_text(self.workdir / "summary.json", self._summary())
            write(self.workdir)
        except Exception:  # whatever a page meets, the run is worth more
            log.warning("report.html could not be written", exc_info=True)
        self.last = time.monotonic()
        self.cost = self.last - start

    def _summary(self) -> str:
        return dumps(self.facts, indent=2) + "\n"


def write(workdir: Path) -> None:
    """Make the page of a work directory from its files; nothing before the first line of metrics.jsonl."""
    workdir = Path(workdir)
    metrics = read_lines(workdir / "metrics.jsonl")
    if metrics:
        config, summary = (json.loads((workdir / name).read_text()) for name in ("config.json", "summary.json"))
        pictures = read_lines(workdir / "pictures.jsonl")
        replace_text(page_of(workdir), page(workdir.absolute().name, metrics, pictures, config, summary))


def write_predictions(workdir: Path, split: str, files: dict[str, object]) -> None:
    """The answers of the latest evaluation of a set: predictions/SPLIT.json and the like."""
    for ending, value in files.items() if jax.process_index() == 0 else ():
        directory = Path(workdir) / "predictions"
        if directory.is_symlink():
            raise UserError(f"{directory} is a symbolic link, and what it points at would be changed: remove it")
        directory.mkdir(parents=True, exist_ok=True)
        replace_text(directory / (split + ending), dumps(value, ensure_ascii=False) + "\n")


def page_of(workdir: Path) -> Path:
    return Path(workdir) / "report.html"


def replace_text(file: Path, text: str) -> None:
    """In one move. A lone surrogate, which UTF-8 lacks, becomes `?`."""
    replace_bytes(file, text.encode("utf-8", "replace"))


def reason(error: BaseException) -> str:
    """Why a run ended early, in a line."""
    if isinstance(error, RunStopped):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted at the keyboard"
    if isinstance(error, Terminated):
        return "asked to end (SIGTERM)"
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
