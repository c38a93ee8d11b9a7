"""The results of a sweep: mean and spread of each point, in sweep.json, sweep.html and on the terminal."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.host.output_file import replace_bytes
from jaxft.host.strict_json import dumps
from jaxft.problems import RunStopped
from jaxft.reports.terminal import print_records
from jaxft.sweeps.halving import promoted
from jaxft.sweeps.page import sweep_page
from jaxft.sweeps.plan import Sweep


@dataclass
class Found:
    """What the trials of a sweep have given so far."""

    plan: Sweep
    records: dict[str, dict[str, Any]]  # of the trials, by name
    parts: dict[str, int]  # point -> p: it was trained up to the p-th part of its steps


def means(found: Found) -> dict[str, tuple[float | None, float | None, int]]:
    """Point -> (mean, standard deviation, number) of the metric over its trials, as far as each point was trained.

    The deviation is that of a sample (n - 1), None for one value. A point with a failed trial has no mean.
    """
    made: dict[str, tuple[float | None, float | None, int]] = {}
    for point, part in found.parts.items():
        own = [record for record in found.records.values() if record["point"] == point]
        values = [record["values"][str(part)] for record in own if str(part) in record["values"]]
        failed = any(record["state"] == "failed" for record in own)
        mean = float(np.mean(values)) if values and not failed else None
        made[point] = (
            mean,
            float(np.std(values, ddof=1)) if mean is not None and len(values) > 1 else None,
            len(values),
        )
    return made


def summary(found: Found, complete: bool) -> dict[str, Any]:
    """The content of sweep.json."""
    plan, numbers = found.plan, means(found)
    points = [
        {
            "name": point,
            "settings": dict(settings),
            "mean": numbers[point][0],
            "std": numbers[point][1],
            "trials": numbers[point][2],
            "part": found.parts[point],
        }
        for point, settings in plan.points.items()
    ]
    furthest = [point for point, part in found.parts.items() if part == min(found.parts.values())]
    (best,) = promoted(furthest, {point: numbers[point][0] for point in furthest}, 1, plan.better)
    chosen = complete and numbers[best][0] is not None
    return {
        "config": plan.asked.config,
        "settings": dict(plan.fixed),
        "search": plan.asked.search,
        "seeds": plan.asked.seeds,
        "folds": plan.asked.folds,
        "metric": plan.metric,
        "better": plan.better,
        "complete": complete,
        "best": {"name": best, "command": plan.command(best)} if chosen else None,
        "points": points,
        "trials": [found.records[trial.name] for trial in plan.trials if trial.name in found.records],
    }


def write(found: Found, complete: bool) -> None:
    """Replaces sweep.json and sweep.html."""
    content = summary(found, complete)
    folder = found.plan.asked.workdir
    replace_bytes(folder / "sweep.json", (dumps(content, indent=2) + "\n").encode("utf-8", "replace"))
    replace_bytes(folder / "sweep.html", sweep_page(folder.absolute().name, content).encode("utf-8", "replace"))


def show(found: Found) -> None:
    """Prints the points, and the command of the best one: a table on a terminal, JSON lines elsewhere."""
    content = summary(found, True)
    lines = [
        {
            "point": point["name"],
            found.plan.metric: point["mean"],
            "std": point["std"],
            "trials": point["trials"],
            "steps": "all" if point["part"] == 1 else f"1/{point['part']}",
        }
        for point in content["points"]
    ]
    print_records(lines)
    if content["best"] is not None and sys.stdout.isatty():
        print(f"best: {content['best']['name']}\n  {content['best']['command']}")
    elif content["best"] is not None:
        print(dumps({"best": content["best"]["name"], "command": content["best"]["command"]}))


def failures(found: Found) -> None:
    """Raises RunStopped, with which the command exits with 1, if a trial failed."""
    failed = [record for record in found.records.values() if record["state"] == "failed"]
    if failed:
        reasons = "\n".join(f"- {record['name']}: {record['reason']}" for record in failed)
        raise RunStopped(
            f"{len(failed)} of {len(found.records)} trials failed; the same command tries them again:\n{reasons}"
        )
