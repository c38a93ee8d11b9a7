"""`jaxft.fit`: training from Python, and what it returns."""

import dataclasses
import functools
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxft.config import Config, Eval
from jaxft.data.memory import as_source
from jaxft.host.defaults import set_environment
from jaxft.inference.model import LoadedModel, load
from jaxft.problems import UserError, raise_problems, truncated_repr
from jaxft.reports.records import Record, read_lines
from jaxft.reports.report import page_of
from jaxft.training.callback import Callback
from jaxft.training.loop import train
from jaxft.training.saved_run import evaluate_run, export_run

log = logging.getLogger("jaxft")


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A finished run."""

    config: Config  # with what the data decided, such as labels
    workdir: Path
    metrics: dict[str, dict[str, float]]  # the last ones of each evaluation set, of the exported model

    @property
    def history(self) -> list[Record]:
        """The records of metrics.jsonl: `step`, `split`, and numbers by name."""
        return read_lines(self.workdir / "metrics.jsonl")

    @property
    def report(self) -> Path:
        """The page of the run, report.html."""
        return page_of(self.workdir)

    @functools.cached_property
    def model(self) -> LoadedModel:
        """The exported model, as `jaxft.load` gives it."""
        return load(str(self.workdir / "model"))

    def evaluate(self, step: int | None = None) -> dict[str, dict[str, Any]]:
        """Metrics of every evaluation set, as the command `evaluate --workdir` computes them; None: the best step, else
        the last."""
        return evaluate_run(str(self.workdir), step, cfg=self.config)

    def export(self, directory: str | os.PathLike[str], step: int | None = None) -> None:
        """Writes a checkpoint as a Hugging Face directory, or a soft prompt as an adapter, as the command `export`."""
        export_run(str(self.workdir), os.fspath(directory), step, None, self.config)


def fit(
    config: Config | None = None,
    workdir: str | os.PathLike[str] | None = None,
    extend: bool = False,
    *,
    callbacks: Sequence[Callback] = (),
    **fields: Any,
) -> FitResult:
    """Trains, or continues the run in `workdir`; None: a new directory among the system's temporary files.

    The configuration is a `Config`, or its fields by name: `fit(model=..., task=..., data=..., lr=..., batch=...,
    epochs=...)`. `data`, and the values of `evals`, may also be a file's path, a list of dicts, a DataFrame (pandas,
    polars), an Arrow table, a `datasets.Dataset`, or any object with a length and rows. With `extend`, a run may get
    more steps or epochs.

    Raises UserError with all problems of a configuration or of the data.
    """
    set_environment()
    cfg = _with_sources(_configuration(config, fields))
    raise_problems(
        f"callbacks[{number}] is {truncated_repr(callback)}, expected an object of a subclass of jaxft.Callback"
        for number, callback in enumerate(callbacks)
        if not isinstance(callback, Callback)
    )
    place = Path(workdir) if workdir is not None else _temporary()
    used, metrics = train(cfg, place, extend, callbacks)
    return FitResult(used, place, metrics)


def _configuration(config: Config | None, fields: dict[str, Any]) -> Config:
    if config is None:
        return Config(**fields)
    if not isinstance(config, Config):
        raise UserError(f"the configuration is {truncated_repr(config)}, expected a jaxft.Config")
    if fields:
        raise UserError(
            f"fit got a Config and the fields {', '.join(fields)}: give one or the other; dataclasses.replace(config, "
            "field=value) makes a Config with another value"
        )
    return config


def _with_sources(cfg: Config) -> Config:
    """The configuration with a component for each value that holds rows. Raises UserError with all problems."""
    problems: list[str] = []

    def source(name: str, value: Any) -> Any:
        try:
            return as_source(value)
        except UserError as error:
            problems.extend(f"{name}: {problem}" for problem in error.problems)

    data = source("config.data", cfg.data)
    if not isinstance(cfg.evals, dict):
        problems.append(f"config.evals is {truncated_repr(cfg.evals)}, expected a dict: name -> rows, or jaxft.Eval")
    evals = cfg.evals if isinstance(cfg.evals, dict) else {}
    opened = {}
    for name, one in evals.items():
        rows = source(f"config.evals.{name}", one.data if isinstance(one, Eval) else one)
        opened[name] = dataclasses.replace(one, data=rows) if isinstance(one, Eval) else Eval(data=rows)
    raise_problems(problems)
    return dataclasses.replace(cfg, data=data, evals=opened)


def _temporary() -> Path:
    """A new work directory. Raises UserError with several processes, which must share one."""
    if jax.process_count() > 1:
        raise UserError("workdir is needed: the processes of a run share one directory")
    made = Path(tempfile.mkdtemp(prefix="jaxft-"))
    log.warning("no workdir was given: the run is written to %s", made)
    return made
