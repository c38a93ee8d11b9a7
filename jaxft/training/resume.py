"""Whether a configuration and its data may continue the run that a work directory holds, and how it may grow.

`origin.json` says what the run began with: fingerprints of its rows and of the model's weights, and `ends`, after how
many examples the run ends, and ended before it was extended (data/order.py).
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxft.config import Config
from jaxft.config.component import to_json
from jaxft.config.former_names import renamed
from jaxft.data.fingerprint import difference, fingerprint
from jaxft.data.order import run_examples
from jaxft.data.pipeline import Batches
from jaxft.host import strict_json
from jaxft.problems import UserError, raise_problems, truncated_repr
from jaxft.training.compiled import CompiledSteps
from jaxft.training.setup import Setup

log = logging.getLogger("jaxft")

# What may differ when a run goes on: where and how it computes, and what it reports.
MAY_CHANGE_ON_RESUME = (
    "mesh",
    "micro_batches",
    "remat",
    "scan",
    "log_every",
    "save",
    "evals",
    "nonfinite",
    "export_dtype",
    "wandb",
)
LENGTH = ("steps", "epochs")  # what --extend may change
WEIGHTS = (".safetensors", ".bin", ".msgpack")
PAGES, PAGE = 64, 4096  # of each file of weights: how many are looked at, bytes


@dataclass(frozen=True)
class Former:
    """The run that a work directory holds: how long it was to be, and what it began with."""

    steps: int | None
    epochs: float | None
    origin: dict  # origin.json; {} where an earlier version began the run

    def ends(self, examples: int, batch: int) -> tuple[int, ...]:
        """After how many examples the run was to end, and was extended before."""
        return tuple(self.origin.get("ends") or [run_examples(examples, batch, self.steps, self.epochs)])


def former_run(cfg: Config, workdir: Path, extend: bool) -> Former | None:
    """The run that `cfg` may continue, None where there is none. Raises UserError if it would be another one."""
    if not (workdir / "config.json").exists():
        raise_problems([f"--extend: {workdir} holds no run: leave it out to begin one"] if extend else [])
        return None
    saved, origin = renamed(_read(workdir / "config.json")), _read(workdir / "origin.json", _sound)
    raise_problems(_changes(cfg, saved, workdir, extend))
    if not any(folder.name.isdecimal() for folder in (workdir / "checkpoints").glob("*")):
        return None  # nothing is left of it but its configuration
    return Former(saved.get("steps"), saved.get("epochs"), origin)


def check_origin(built: Setup, workdir: Path, former: Former, sets: dict) -> None:
    """Raises UserError if the rows, or the weights that stay as they are, are not those that the run began with.

    `sets` are the batches by name, "train" among them. An evaluation set may change, and that is said.
    """
    before = former.origin.get("sets", {})
    if "train" not in before:
        log.info("an earlier version began this run: whether its rows are still the same cannot be told")
    changed = {name: difference(before[name], batches.encoded) for name, batches in sets.items() if name in before}
    aside = (
        f"Restore it, or begin a new run from this one's weights: --config.model={workdir / 'model'} --workdir=ANOTHER"
    )
    problems = []
    if train := changed.pop("train", None):
        cause = " (the tokenizer is another one)" if former.origin["tokenizer"] != tokenizer_mark(built) else ""
        problems.append(f"config.data is not what the run in {workdir} began with: {train}{cause}. {aside}")
    weights = former.origin.get("weights")
    if weights not in (None, weights_mark(built)) and built.sizes()[1]:
        problems.append(f"the weights in {built.cfg.model} have changed, and some of them do not train. {aside}")
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
    """Raises UserError where the run is to see fewer examples than before."""
    if batches.order.ends[-1] < former.ends(len(batches.encoded), batches.batch)[-1]:
        raise UserError("config.steps or config.epochs are fewer than the run has had: it can only grow")


def tell_growth(plan: CompiledSteps, batches: Batches, former: Former, done: int, skipped: int) -> None:
    """If the run was extended: how long it is now, and what the learning rate is after `done` steps."""
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


def origin_of(built: Setup, sets: dict, ends: tuple[int, ...]) -> dict:
    """What `origin.json` holds."""
    return {
        "ends": list(ends),
        "tokenizer": tokenizer_mark(built),
        "weights": weights_mark(built),
        "sets": {name: fingerprint(batches.encoded) for name, batches in sets.items()},
    }


def weights_mark(built: Setup) -> str:
    """A digest of the names and sizes of the files of weights, and of some pages of each: training changes them all."""
    found = hashlib.blake2b(digest_size=8)
    for file in sorted(built.pretrained.directory.iterdir()):
        if file.suffix in WEIGHTS and file.is_file():
            size = file.stat().st_size
            found.update(f"{file.name} {size}".encode())
            with open(file, "rb") as opened:
                for number in range(PAGES):
                    opened.seek(size * number // PAGES)
                    found.update(opened.read(PAGE))
    return found.hexdigest()


def tokenizer_mark(built: Setup) -> str:
    """A digest of the tokenizer's words and their numbers."""
    words = json.dumps(built.setting.vocabulary, sort_keys=True)
    return hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _read(file: Path, sound: Callable[[dict], bool] = lambda found: True) -> dict:
    try:
        found = strict_json.parse(file.read_bytes()) if file.exists() else {}
    except ValueError as error:
        found = error
    if not isinstance(found, dict) or found and not sound(found):
        reason = found if isinstance(found, ValueError) else f"{truncated_repr(found)} is not what a run writes there"
        raise UserError(f"{file} is damaged ({reason}): use another --workdir, or remove this one")
    return found


def _sound(origin: dict) -> bool:
    """Whether `origin.json` is as `origin_of` made it."""
    try:
        ends, sets = origin["ends"], origin["sets"].values()
        numbers = [*ends, *(one[name] for one in sets for name in ("rows", "examples", "size"))]
        digests = [origin["tokenizer"], origin["weights"], *(digest for one in sets for digest in one["blocks"])]
    except (KeyError, TypeError, AttributeError):
        return False
    whole = all(type(number) is int and number > 0 for number in numbers)
    return whole and all(isinstance(text, str) for text in digests) and ends == sorted(set(ends)) != []


def _changes(cfg: Config, saved: dict, workdir: Path, extend: bool) -> list[str]:
    now, problems = to_json(cfg), []
    for name in now:
        if name in MAY_CHANGE_ON_RESUME or now[name] == saved.get(name) or extend and name in LENGTH:
            continue
        fix = "let this run grow with --extend" if name in LENGTH else "begin a new run from this one's weights with "
        fix += "" if name in LENGTH else f"--config.model={workdir / 'model'} --workdir=ANOTHER"
        problems.append(
            f"config.{name} is {truncated_repr(now[name])}, but {workdir} holds a run with "
            f"{truncated_repr(saved.get(name))}: restore the old value, {fix}, or use another --workdir"
        )
    return problems
