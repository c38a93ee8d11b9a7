"""Runs child processes in turns and summarises their measurements."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from jaxft.benchmark.job import Job, write_examples
from jaxft.config import Config, save_config
from jaxft.config.component import modules_of
from jaxft.data.batching import Pad
from jaxft.models.params import names
from jaxft.optim.adamw import AdamW
from jaxft.problems import RunStopped, raise_problems
from jaxft.tasks.mlm import MaskedLM
from jaxft.training.setup import Setup, build

SIDES = {"jaxft": "jaxft.benchmark.measurement", "transformers": "jaxft.benchmark.trainer"}

# Compilation is measured, so no cache; and each child sets its own allocator options (host/memory.py).
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
ENVIRONMENT["JAX_ENABLE_COMPILATION_CACHE"] = "false"


def bench(
    cfg: Config, against: str | None, padding: str, rows: tuple[str, ...], rounds: int, steps: int
) -> dict[str, Any]:
    """Row -> {side: numbers, "ratio": numbers}. The numbers of a side are medians over `rounds`.

    A ratio is the median over the rounds; above 1, jaxft is better. Raises UserError for configurations that the other
    side cannot run.
    """
    raise_problems(
        f"--{name} is {n}, expected 1 or more" for name, n in (("rounds", rounds), ("steps", steps)) if n < 1
    )
    if padding == "fixed":
        longest = cfg.batching.max_example_length(cfg.max_len) or cfg.max_len
        cfg = dataclasses.replace(cfg, batching=Pad(buckets=(longest,), window=1))
    rows = tuple(row for row in rows if row != "evaluate" or cfg.evals)
    sides = ["jaxft"] + ([against] if against else [])
    modules = sorted(modules_of(cfg))  # of the configuration file, which was allowed to import them
    measured: dict[str, dict[str, list[dict[str, Any]]]] = {row: {side: [] for side in sides} for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        prepare(cfg, padding, steps, Path(folder), bool(against))
        for number in range(rounds):
            for row in rows:
                for side in sides if number % 2 == 0 else sides[::-1]:
                    measured[row][side].append(child(SIDES[side], row, folder, modules if side == "jaxft" else ()))
    report = {"model": cfg.model, "device": jax.devices()[0].device_kind, "padding": padding, "rounds": rounds}
    return report | {row: summary(measured[row], sides) for row in rows}


def prepare(cfg: Config, padding: str, steps: int, folder: Path, compared: bool) -> None:
    """Writes the job's folder. Raises UserError for all that is wrong with the configuration."""
    first = next(iter(cfg.evals), None)
    built = build(cfg, ["train", first] if first else ["train"])
    save_config(cfg, folder / "config.json")
    raise_problems(comparison_problems(cfg) if compared else [])
    job_of(built, padding, steps).write(folder)
    if compared:
        for name, file in (("train", "train"), (first, "evaluate")):
            if name:
                write_examples(folder / f"{file}.npz", cfg.batching.prepare(built.encode(name)), built.arch.kind)


def comparison_problems(cfg: Config) -> list[str]:
    """Why transformers' Trainer cannot do the same work."""
    problems = [] if isinstance(cfg.optim, AdamW) else ["--against=transformers compares with AdamW: set config.optim"]
    problems += ["--against=transformers needs steps of one device"] if jax.device_count() > 1 else []
    absent = [name for name in ("torch", "accelerate") if find_spec(name) is None]
    return problems + ([f"--against=transformers needs pip install {' '.join(absent)}"] if absent else [])


def job_of(built: Setup, padding: str, steps: int) -> Job:
    """The work of a run, for the Trainer."""
    cfg, task = built.cfg, built.task
    if built.model is not built.base:
        raise_problems(["--against=transformers does not know adapters: set another config.tune"])
    chosen = {name for path in built.trained for name in names(built.model, path)}
    labels = task.labels
    return Job(
        model=str(built.pretrained.directory),
        head=built.arch.kind,
        labels=list(labels) if labels else None,
        problem_type=task.problem_type,
        random=cfg.init == "random",
        dropout=cfg.dropout,
        trained=[tensor.hf for tensor in built.arch.tensor_maps if chosen.intersection(tensor.jaxft)],
        mask_rate=task.rate if isinstance(task, MaskedLM) else 0.0,
        lr=float(cfg.lr),
        optim=dataclasses.asdict(cfg.optim) if isinstance(cfg.optim, AdamW) else {},
        clip=cfg.clip,
        batch=cfg.batch,
        micro_batches=cfg.micro_batches,
        eval_batch=cfg.eval_batch(next(iter(cfg.evals))) if cfg.evals else cfg.batch,
        dtype=str(built.model.dtype),
        seed=cfg.seed,
        max_len=cfg.batching.max_example_length(cfg.max_len) or cfg.max_len,
        padding=padding,
        steps=steps,
        log_every=cfg.log_every,
    )


def child(module: str, row: str, folder: str, modules: Sequence[str] = ()) -> dict[str, Any]:
    """The result of one measurement: the last line that its process prints. It may import the user's `modules`."""
    command = [sys.executable, "-m", module, f"--row={row}", f"--folder={folder}"]
    command += [f"--allow-import={','.join(modules)}"] if modules else []
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode:
        raise RunStopped(f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(measured: Mapping[str, list[dict[str, Any]]], sides: list[str]) -> dict[str, dict[str, Any]]:
    """Medians over the rounds, and with two sides the medians of their ratios."""
    result = {
        side: {name: median([numbers[name] for numbers in measured[side]]) for name in measured[side][0]}
        for side in sides
    }
    if len(sides) == 2:
        own, other = (measured[side] for side in sides)
        common = [name for name in own[0] if name in other[0] and not isinstance(own[0][name], list)]
        result["ratio"] = {
            name: statistics.median(ratio(name, a[name], b[name]) for a, b in zip(own, other, strict=True))
            for name in common
        }
    return result


def median(values: list[Any]) -> Any:
    """The median of numbers; for lists, such as the times of all steps, their concatenation."""
    if isinstance(values[0], list):
        return [x for value in values for x in value]
    return statistics.median(values)


def ratio(name: str, own: float, other: float) -> float:
    """How many times better `own` is: rates and shares should be high, times and memory low."""
    return own / other if name.endswith(("_per_second", "_share")) else other / own
