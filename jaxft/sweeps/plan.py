"""What a sweep will do: its points, its trials and the metric; everything is checked before the first trial."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxft.config import Config, Eval, overrides
from jaxft.config import file as config_file
from jaxft.config.overrides import unshared
from jaxft.data.folds import Fold
from jaxft.problems import UserError, listed, raise_problems, suggest, truncated_repr
from jaxft.sweeps.grid import Point, Span, drawn, grid, size, spanned
from jaxft.sweeps.halving import ETA
from jaxft.training.setup import Setup, build
from jaxft.training.shared import Shared

MOST = 2000  # trials of one sweep
FOLD = "fold"  # the evaluation set that holds a trial's own fold


@dataclass(frozen=True)
class Asked:
    """A sweep as its command line asks for it."""

    config: str  # FILE.py[:ARG], or the name of a recipe
    settings: Point
    workdir: Path
    seeds: int | None = None
    folds: int | None = None
    search: str = "grid"
    trials: int | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Trial:
    """One run of a point."""

    name: str  # of its work directory
    point: str
    seed: int | None  # None: that of the configuration
    fold: int | None


@dataclass(frozen=True)
class Sweep:
    """A sweep that has been checked."""

    asked: Asked
    base: Config
    fixed: Point  # settings that all points share
    points: dict[str, Point]  # by name
    trials: list[Trial]  # in the order of the points
    metric: str  # "test/accuracy"
    better: str  # "max" or "min"

    def config(self, trial: Trial) -> Config:
        """The configuration of a trial."""
        return configured(self.asked, self.base, self.fixed + self.points[trial.point], trial.seed, trial.fold)[0]

    def command(self, point: str) -> str:
        """The command that trains one model with the settings of a point, on all training rows."""
        settings = [f"--config.{name}={text}" for name, text in self.fixed + self.points[point]]
        words = ["python", "-m", "jaxft.train", f"--config={self.asked.config}", *settings]
        return shlex.join([*words, f"--workdir={self.asked.workdir / 'best'}"])


def plan_sweep(asked: Asked, shared: Shared) -> Sweep:
    """Raises one UserError with everything that is wrong. What it reads of the data is kept in `shared`."""
    base = config_file.load(asked.config)
    axes, fixed, problems = spanned(base, asked.settings)
    problems += request_problems(asked, axes) + number_problems(asked, axes)
    points = [] if problems else list(grid(axes)) if asked.trials is None else drawn(axes, asked.trials)
    if points and asked.trials is not None and len(points) < asked.trials:
        problems.append(f"--trials={asked.trials}: the ranges hold only {len(points)} points; use fewer trials")
    # Where there are no points, the first value of each axis is checked, so that the message has all problems.
    checked = points or [tuple((axis.field, axis.values[0]) for axis in axes if axis.values)]
    for point in checked:
        found = configured(asked, base, fixed + point, None, 0)[1]
        problems += [problem for problem in found if problem not in problems]
    metric, better, found = chosen_metric(asked, configured(asked, base, fixed + checked[0]), shared)
    raise_problems([*problems, *(problem for problem in found if problem not in problems)])
    named = named_points(points)
    return Sweep(asked, base, fixed, named, trials_of(asked, named), metric, better)


def request_problems(asked: Asked, axes: list[Span]) -> list[str]:
    """Flags that do not go together, and values that they cannot have."""
    found = [] if jax.process_count() == 1 else ["a sweep runs in one process, with all of its devices"]
    for axis in axes:
        if axis.is_range and asked.trials is None:
            found.append(f"--config.{axis.field} is a range: draw from it with --search=random --trials=N")
    if asked.search == "random" and asked.trials is None:
        found.append("--search=random needs the number of points: --trials=N")
    if asked.search == "grid" and asked.trials is not None:
        found.append("--trials is for --search=random and --search=halving: a grid has all points. Leave it out")
    if asked.folds == 1:
        found.append("--folds=1: one fold leaves no rows to train on; use 2 or more")
    if asked.seeds is not None and any(name == "seed" for name, _ in asked.settings):
        found.append("--seeds and --config.seed both set the seed: leave one out")
    if not axes and asked.search != "grid":
        found.append(f"--search={asked.search} needs values to choose from: --config.FIELD=VALUE,VALUE")
    return found


def number_problems(asked: Asked, axes: list[Span]) -> list[str]:
    """Too many points, or too few."""
    found = []
    total, runs = size(axes), (asked.seeds or 1) * (asked.folds or 1)
    count = asked.trials if asked.trials is not None else total
    if count is not None and count * runs > MOST:
        found.append(
            f"{count:,} points, each {runs:,} times, are {count * runs:,} trials, and a sweep has at most {MOST:,}: "
            "use fewer values, seeds or folds, or draw points with --search=random --trials=N"
        )
    if total is not None and axes and total < (asked.trials or 0):
        found.append(f"--trials={asked.trials}: the values span only {total} points; use fewer trials")
    if asked.search == "halving" and count is not None and axes and count < ETA:
        found.append(f"--search=halving needs {ETA} points or more, and there are {count}: use --search=grid")
    return found


def configured(
    asked: Asked, base: Config, settings: Point, seed: int | None = None, fold: int | None = None
) -> tuple[Config, list[str]]:
    """(the configuration of a trial, its problems)."""
    cfg = unshared(base)
    problems = overrides.override(cfg, list(settings), told=False)
    if seed is not None:
        cfg.seed = seed
    if fold is not None and asked.folds is not None and asked.folds > 1:
        if FOLD in cfg.evals:
            problems.append(
                f"config.evals has a set named {FOLD!r}, which is what --folds calls the fold that a trial is "
                "evaluated on: give it another name"
            )
        part = {"data": cfg.data, "folds": asked.folds, "fold": fold, "seed": base.seed}
        cfg.data = Fold(**part)
        cfg.evals = {**cfg.evals, FOLD: Eval(data=Fold(**part, held_out=True))}
    return cfg, problems + cfg.problems()


def chosen_metric(asked: Asked, point: tuple[Config, list[str]], shared: Shared) -> tuple[str, str, list[str]]:
    """(the metric, "max" or "min", problems) for a point without folds. Opens the data if the point has no problems."""
    cfg, problems = point
    sets = [FOLD] * (asked.folds is not None) + list(cfg.evals)
    found = []
    if not sets:
        found = ["there is no evaluation set to choose by: --folds=5, or --config.evals.test.data=FILE"]
    elif asked.metric and asked.metric.partition("/")[0] not in sets:
        found = [f"--metric={asked.metric}: expected SET/METRIC, of the sets {listed(sets)}"]
    if problems:
        return "", "max", found
    try:
        built = build(cfg, shared=shared)
    except UserError as error:
        return "", "max", found + error.problems
    found += fold_problems(asked, built)
    known = {name: metric.better for name, metric in built.task.metrics().items()}
    ranked = [name for name, better in known.items() if better and not name.endswith("loss")]
    metric = asked.metric or cfg.save.best or f"{[*sets, ''][0]}/{[*ranked, 'loss'][0]}"
    name = metric.partition("/")[2]
    if name not in known:
        found.append(
            f"--metric={metric}: the task gives no {truncated_repr(name)}.{suggest(name, known)} "
            f"Metrics: {listed(known, 30)}"
        )
    elif known[name] is None:
        found.append(f"--metric={metric} is better neither large nor small: use another one, such as {ranked[0]}")
    return metric, known.get(name) or "max", found


def fold_problems(asked: Asked, built: Setup) -> list[str]:
    rows = len(built.sources["train"])
    if asked.folds is None or asked.folds <= rows:
        return []
    return [f"--folds={asked.folds}: config.data has only {rows:,} rows; use {rows} folds or fewer"]


def named_points(points: list[Point]) -> dict[str, Point]:
    """The points by names that are names of directories, too."""
    named: dict[str, Point] = {}
    for point in points:
        text = "-".join(f"{name}={value}" for name, value in point)
        name = plain = re.sub(r"[^\w.=+-]", "_", text).strip(".")[:120] or "point"
        while name in named:
            name = f"{plain}-{len(named) + 1}"
        named[name] = point
    return named


def trials_of(asked: Asked, points: dict[str, Point]) -> list[Trial]:
    """The trials of all points: each with every seed and every fold."""
    seeds: list[Any] = [None] if asked.seeds is None else list(range(asked.seeds))
    folds: list[Any] = [None] if asked.folds is None else list(range(asked.folds))
    made = []
    for point in points:
        for seed in seeds:
            for fold in folds:
                more = [f"seed={seed}"] * (seed is not None) + [f"fold={fold}"] * (fold is not None)
                made.append(Trial("-".join([point, *more]), point, seed, fold))
    return made
