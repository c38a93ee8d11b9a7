"""Whether a configuration and its data may continue the run in a work directory, and whether the run may be extended.

`origin.json` holds what the run began with: fingerprints of its rows and of the model's weights, and `ends`: the
numbers of examples after which the run ended before each extension, and ends now (data/order.py).
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.config import Config
from jaxft.config.component import to_json, with_defaults
from jaxft.config.former_names import renamed
from jaxft.data.fingerprint import difference, fingerprint
from jaxft.data.order import run_examples
from jaxft.data.pipeline import Batches, EvalBatches
from jaxft.host import strict_json
from jaxft.problems import UserError, raise_problems, truncated_repr
from jaxft.training.compiled import CompiledSteps
from jaxft.training.setup import Setup

log = logging.getLogger("jaxft")

# Fields that may differ when a run continues: where and how it computes, and what it reports.
MAY_CHANGE_ON_RESUME = (
    "mesh",
    "micro_batches",
    "remat",
    "scan",
    "log_every",
    "save",
    "early_stopping",
    "eval_on_start",
    "evals",
    "metrics",
    "nonfinite",
    "export_dtype",
    "wandb",
)
LENGTH = ("steps", "epochs")  # what --extend may change
WEIGHTS = (".safetensors", ".bin", ".msgpack")
PAGES, PAGE_BYTES = 64, 4096  # of each file of weights that go into its digest


@dataclass(frozen=True)
class Former:
    """The run in a work directory: its configured length, and what it began with."""

    steps: int | None
    epochs: float | None
    origin: dict[str, Any]  # origin.json; {} if an earlier version of jaxft began the run

    def ends(self, examples: int, batch: int) -> tuple[int, ...]:
        """The numbers of examples after which the run ended before each extension, and was to end at last."""
        return tuple(self.origin.get("ends") or [run_examples(examples, batch, self.steps, self.epochs)])


def former_run(cfg: Config, workdir: Path, extend: bool) -> Former | None:
    """The run that `cfg` continues, or None. Raises UserError if the work directory holds a different run."""
    if not (workdir / "config.json").exists():
        raise_problems([f"--extend: {workdir} holds no run: leave it out to begin one"] if extend else [])
        return None
    saved = with_defaults(renamed(_read(workdir / "config.json")), cfg)
    origin = _read(workdir / "origin.json", _is_valid)
    raise_problems(_changes(cfg, saved, workdir, extend))
    if not any(folder.name.isdecimal() for folder in (workdir / "checkpoints").glob("*")):
        return None  # only its configuration is left
    return Former(saved.get("steps"), saved.get("epochs"), origin)


def check_origin(built: Setup, workdir: Path, former: Former, sets: Mapping[str, Batches | EvalBatches]) -> None:
    """Raises UserError if the training rows, or frozen weights, are not those that the run began with.

    `sets` are the batches by name, "train" among them. An evaluation set may change, with a warning.
    """
    before = former.origin.get("sets", {})
    if "train" not in before:
        log.info("an earlier version of jaxft began this run: its rows cannot be compared")
    changed = {name: difference(before[name], batches.encoded) for name, batches in sets.items() if name in before}
    fix = (
        f"Restore it, or begin a new run from this one's weights: --config.model={workdir / 'model'} --workdir=ANOTHER"
    )
    problems = []
    if train := changed.pop("train", None):
        cause = " (the tokenizer is another one)" if former.origin["tokenizer"] != tokenizer_digest(built) else ""
        problems.append(f"config.data is not what the run in {workdir} began with: {train}{cause}. {fix}")
    weights = former.origin.get("weights")
    if weights not in (None, weights_digest(built)) and built.sizes()[1]:
        problems.append(f"the weights in {built.cfg.model} have changed, and some of them do not train. {fix}")
    raise_problems(problems)
    for name in [name for name in changed if changed[name]]:
        best = built.cfg.save.best or ""
        ranked = ", and so is the choice of the best checkpoint" if best.partition("/")[0] == name else ""
        log.warning(
            "config.evals.%s is another set now, %s: its metrics so far are of the former rows%s",
            name,
            changed[name],
            ranked,
        )


def check_growth(batches: Batches, former: Former) -> None:
    """Raises UserError if the run would see fewer examples than before."""
    if batches.order.ends[-1] < former.ends(len(batches.encoded), batches.batch)[-1]:
        raise UserError("config.steps or config.epochs are fewer than the run has had: it can only grow")


def log_growth(plan: CompiledSteps, batches: Batches, former: Former, done: int, skipped: int) -> None:
    """If the run was extended, logs its new length and how that changes the learning rate after `done` steps."""
    cfg, order = plan.built.cfg, batches.order
    known = former.ends(len(batches.encoded), batches.batch)
    if len(known) == len(order.ends):
        return
    before = order.steps_to(known[-1])
    log.info(
        "extended from %d to %d steps: the learning rate is now that of %s over %d steps, %.2e at step %d (it was %.2e "
        "there) and %.2e at the last",
        before,
        order.steps,
        type(cfg.schedule).__name__,
        order.steps,
        plan.schedule(done - skipped),
        done + 1,
        cfg.schedule.make(cfg.lr, before)(done - skipped),
        plan.schedule(order.steps - 1),
    )


def origin_of(built: Setup, sets: Mapping[str, Batches | EvalBatches], ends: tuple[int, ...]) -> dict[str, Any]:
    """The content of `origin.json`."""
    return {
        "ends": list(ends),
        "tokenizer": tokenizer_digest(built),
        "weights": weights_digest(built),
        "sets": {name: fingerprint(batches.encoded) for name, batches in sets.items()},
    }


def weights_digest(built: Setup) -> str:
    """A digest of the names and sizes of the files of weights and of some pages of each, since training changes all."""
    found = hashlib.blake2b(digest_size=8)
    for file in sorted(built.pretrained.directory.iterdir()):
        if file.suffix in WEIGHTS and file.is_file():
            size = file.stat().st_size
            found.update(f"{file.name} {size}".encode())
            with open(file, "rb") as opened:
                for number in range(PAGES):
                    opened.seek(size * number // PAGES)
                    found.update(opened.read(PAGE_BYTES))
    return found.hexdigest()


def tokenizer_digest(built: Setup) -> str:
    """A digest of the tokenizer's vocabulary."""
    vocabulary = json.dumps(built.setting.vocabulary, sort_keys=True)
    return hashlib.blake2b(vocabulary.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _read(file: Path, is_valid: Callable[[dict], bool] = lambda found: True) -> dict[str, Any]:
    try:
        found = strict_json.parse(file.read_bytes()) if file.exists() else {}
        if not isinstance(found, dict) or found and not is_valid(found):
            raise ValueError(f"{truncated_repr(found)} is not what a run writes there")
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): use another --workdir, or remove this one") from None
    return found


def _is_valid(origin: dict) -> bool:
    """Whether this could be the result of `origin_of`."""
    try:
        ends, sets = origin["ends"], origin["sets"].values()
        numbers = [*ends, *(one[name] for one in sets for name in ("rows", "examples", "size"))]
        digests = [origin["tokenizer"], origin["weights"], *(digest for one in sets for digest in one["blocks"])]
    except (KeyError, TypeError, AttributeError):
        return False
    positive = all(type(number) is int and number > 0 for number in numbers)
    return positive and all(isinstance(text, str) for text in digests) and ends == sorted(set(ends)) != []


def _changes(cfg: Config, saved: dict, workdir: Path, extend: bool) -> list[str]:
    problems: list[str] = []
    now = to_json(cfg)
    for name in now:
        if name in MAY_CHANGE_ON_RESUME or now[name] == saved.get(name) or extend and name in LENGTH:
            continue
        fix = "let this run grow with --extend" if name in LENGTH else "begin a new run from this one's weights with "
        fix += "" if name in LENGTH else f"--config.model={workdir / 'model'} --workdir=ANOTHER"
        where, new, old = _first_difference(name, now[name], saved.get(name))
        problems.append(
            f"config.{where} is {truncated_repr(new)}, but {workdir} holds a run with {truncated_repr(old)}: restore "
            f"the old value, {fix}, or use another --workdir"
        )
    return problems


def _first_difference(name: str, new: Any, old: Any) -> tuple[str, Any, Any]:
    """The first field that differs, with its values: of components of one class, a field of theirs."""
    if isinstance(new, dict) and isinstance(old, dict) and new.get("class") == old.get("class"):
        for key in new:
            if new[key] != old.get(key):
                return _first_difference(f"{name}.{key}", new[key], old.get(key))
    return name, new, old
