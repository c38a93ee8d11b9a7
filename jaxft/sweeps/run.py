"""Runs the trials of a sweep, one after the other in this process, and keeps sweep.json and sweep.html.

The opened rows, the encoded examples and the compiled programs are those of all trials (training/shared.py).
"""

import dataclasses
import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Any

import jax

from jaxft.config import Config
from jaxft.config.component import to_json
from jaxft.data.folds import Fold
from jaxft.host import strict_json
from jaxft.problems import RunInterrupted, RunStopped, UserError
from jaxft.sweeps.halving import promoted, rungs
from jaxft.sweeps.plan import Sweep, Trial
from jaxft.sweeps.results import Found, means, write
from jaxft.training.loop import train
from jaxft.training.setup import build
from jaxft.training.shared import Shared, identity

log = logging.getLogger("jaxft")


def run(plan: Sweep, shared: Shared) -> Found:
    """Trains what is not trained yet. Raises RunInterrupted after SIGTERM or Ctrl-C; the same call goes on."""
    folder = plan.asked.workdir
    folder.mkdir(parents=True, exist_ok=True)
    found = Found(plan, {}, dict.fromkeys(plan.points, 1))
    known = former(folder)
    alive = list(plan.points)
    steps = rungs(len(alive)) if plan.asked.search == "halving" else [(len(alive), 1)]
    for count, part in steps:
        alive = promoted(alive, {point: mean for point, (mean, *_) in means(found).items()}, count, plan.better)
        found.parts |= dict.fromkeys(alive, part)
        trials = [trial for trial in plan.trials if trial.point in alive]
        for number, trial in enumerate(trials, 1):
            log.info(
                "trial %d of %d%s: %s", number, len(trials), f", to 1/{part} of its steps" * (part > 1), trial.name
            )
            record = known.get(trial.name, {}) | found.records.get(trial.name, {})
            found.records[trial.name] = attempt(plan, trial, part, record, shared)
            write(found, complete=False)
    write(found, complete=True)
    return found


def former(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of the trials of an earlier call, by name. Raises UserError if the file is damaged."""
    file = folder / "sweep.json"
    try:
        saved = strict_json.parse(file.read_bytes()) if file.exists() else {"trials": []}
        return {trial["name"]: trial for trial in saved["trials"]}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is damaged: remove it, or use another --workdir") from None


def attempt(plan: Sweep, trial: Trial, part: int, record: dict[str, Any], shared: Shared) -> dict[str, Any]:
    """The record of a trial that has had the `part`-th part of its steps; it is trained only as far as it was not."""
    head: dict[str, Any] = {
        "name": trial.name,
        "point": trial.point,
        "seed": trial.seed,
        "fold": trial.fold,
        "config": None,
        "values": {},
    }
    try:
        cfg = with_labels(plan.config(trial), shared)
        digest = hashlib.blake2b(json.dumps(to_json(cfg), sort_keys=True).encode(), digest_size=8).hexdigest()
        values = record.get("values", {}) if record.get("config") == digest else {}
        head |= {"config": digest, "values": values}
        if str(part) in values:
            return head | {"state": "complete", "reason": None, "metrics": record["metrics"]}
        _, results = train(cfg, plan.asked.workdir / trial.name, shared=shared, part=part)
    except RunInterrupted:
        raise
    except (UserError, RunStopped, jax.errors.JaxRuntimeError) as error:
        log.warning("trial %s failed: %s", trial.name, error)
        return head | {"state": "failed", "reason": str(error), "metrics": {}}
    split, _, name = plan.metric.partition("/")
    value = results.get(split, {}).get(name)
    done = {"values": {**values, str(part): value}, "metrics": results}
    if value is None or not math.isfinite(value):
        return head | {"state": "failed", "reason": f"{plan.metric} is not a number", "metrics": results}
    return head | {"state": "complete", "reason": None} | done


def with_labels(cfg: Config, shared: Shared) -> Config:
    """The configuration, if it trains on a fold, with the classes of all rows: a fold may lack one."""
    if not isinstance(cfg.data, Fold) or cfg.task.labels is not None:
        return cfg
    whole = dataclasses.replace(cfg, data=cfg.data.data, evals={}, save=type(cfg.save)(), early_stopping=None)
    key = ("labels", cfg.model, identity(cfg.task), identity(whole.data))
    labels = shared.get(key, lambda: build(whole, ["train"], shared).task.labels)
    return dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, labels=labels))
