"""Child processes that take turns, and what their measurements come to."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import jax

from jaxft.benchmark.job import Job, write_examples
from jaxft.config import Config, save_config
from jaxft.config.component import modules_of, to_json
from jaxft.data.batching import Pad
from jaxft.models.params import names
from jaxft.optim.adamw import AdamW
from jaxft.problems import RunStopped, raise_problems
from jaxft.tasks.mlm import MaskedLM
from jaxft.training.setup import Setup, build

SIDES = {"jaxft": "jaxft.benchmark.measurement", "transformers": "jaxft.benchmark.trainer"}

# Compiling is measured, so nothing may be found compiled; and a child chooses its own pages (host_memory.py).
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
ENVIRONMENT["JAX_ENABLE_COMPILATION_CACHE"] = "false"


def bench(cfg: Config, against: str | None, padding: str, rows: tuple[str, ...], rounds: int, steps: int) -> dict:
    """Row -> {side: numbers, "ratio": numbers}. A number of a side is the median over `rounds`.

    A ratio above 1 says that jaxft is better; it is the median of the rounds' own ratios. Raises UserError for what
    the other side cannot do.
    """
    raise_problems(
        f"--{name} is {n}, expected 1 or more" for name, n in (("rounds", rounds), ("steps", steps)) if n < 1
    )
    if padding == "fixed":
        longest = cfg.batching.max_example_length(cfg.max_len) or cfg.max_len
        cfg = dataclasses.replace(cfg, batching=Pad(buckets=(longest,), window=1))
    rows = tuple(row for row in rows if row != "evaluate" or cfg.evals)
    sides = ["jaxft"] + ([against] if against else [])
    modules = sorted(modules_of(to_json(cfg)))  # of the user's configuration file, which has been run
    measured = {row: {side: [] for side in sides} for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        prepare(cfg, padding, steps, Path(folder), bool(against))
        for number in range(rounds):
            for row in rows:
                for side in sides if number % 2 == 0 else sides[::-1]:
                    measured[row][side].append(child(SIDES[side], row, folder, modules if side == "jaxft" else ()))
    report = {"model": cfg.model, "device": jax.devices()[0].device_kind, "padding": padding, "rounds": rounds}
    return report | {row: summary(measured[row], sides) for row in rows}


def prepare(cfg: Config, padding: str, steps: int, folder: Path, compared: bool) -> None:
    """Write the job's folder. Everything that is wrong with the configuration is found here."""
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
    problems = [] if isinstance(cfg.optim, AdamW) else ["--against=transformers compares with AdamW: set config.optim"]
    problems += ["--against=transformers needs steps of one device"] if jax.device_count() > 1 else []
    absent = [name for name in ("torch", "accelerate") if find_spec(name) is None]
    return problems + ([f"--against=transformers needs pip install {' '.join(absent)}"] if absent else [])


def job_of(built: Setup, padding: str, steps: int) -> Job:
    cfg, task = built.cfg, built.task
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
        lr=cfg.lr,
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


def child(module: str, row: str, folder: str, modules: Sequence[str] = ()) -> dict:
    """The numbers of one measurement, the last line that its process prints. `modules` it may import."""
    command = [sys.executable, "-m", module, f"--row={row}", f"--folder={folder}"]
    command += [f"--allow-import={','.join(modules)}"] if modules else []
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode:
        raise RunStopped(f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(measured: dict[str, list[dict]], sides: list[str]) -> dict:
    """Medians over the rounds, and with two sides the medians of their ratios."""
    result = {
        side: {name: middle([numbers[name] for numbers in measured[side]]) for name in measured[side][0]}
        for side in sides
    }
    if len(sides) == 2:
        ours, theirs = (measured[side] for side in sides)
        common = [name for name in ours[0] if name in theirs[0] and not isinstance(ours[0][name], list)]
        result["ratio"] = {
            name: statistics.median(better(name, a[name], b[name]) for a, b in zip(ours, theirs, strict=True))
            for name in common
        }
    return result


def middle(values: list):
    """The median; of lists (of steps, say) all of their elements in one."""
    if isinstance(values[0], list):
        return [x for value in values for x in value]
    return statistics.median(values)


def better(name: str, ours: float, theirs: float) -> float:
    """How many times better jaxft is: rates and shares are to be high, times and memory low."""
    return ours / theirs if name.endswith(("_per_second", "_share")) else theirs / ours
