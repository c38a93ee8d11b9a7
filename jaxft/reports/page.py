"""The text of report.html, as a pure function of the files of a work directory."""

import functools
import math
import statistics
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np

from jaxft import assets
from jaxft.reports.curves import BINS, HEIGHT, WIDTH, Series, cloud, curves
from jaxft.reports.format import human
from jaxft.reports.progress import duration
from jaxft.reports.records import Record

# Metric -> title, unit, lowest value of its axis. Other metrics follow under their own names.
TITLES = {
    "loss": ("Loss", "", None),
    "learning_rate": ("Learning rate", "", 0.0),
    "grad_norm": ("Gradient norm", "before clipping", None),
    "tokens_per_second": ("Throughput", "tokens/s without padding", 0.0),
    "mfu": ("FLOPs utilisation", "share of the chips' peak", 0.0),
}
NOT_DRAWN = ("step", "split", "epoch", "skipped", "steps_per_second", "memory_bytes")
MAX_LOGGED, MAX_TARGETS = 50, 100  # rows of tables


def page(
    name: str, metrics: list[Record], pictures: list[Record], config: Mapping[str, Any], summary: Mapping[str, Any]
) -> str:
    """HTML for the run `name`. The other arguments are the contents of the files that reports/report.py lists."""
    splits = list(dict.fromkeys(["train", *config["evals"], *(line["split"] for line in metrics)]))
    by_split = {split: [line for line in metrics if line["split"] == split] for split in splits}
    final = last_evaluations(by_split, summary["model_step"])
    charts = draw_curves(by_split, metrics[-1]["step"])
    drawn = draw_pictures(pictures, final, splits)
    clouds = [figure for picture in drawn for figure in picture["figures"] if figure["figure"] == "scatter"]
    for place, drawing in enumerate(charts + clouds):
        drawing["number"] = place
    return _template().render(
        name=name,
        state=state(metrics[-1]["step"], summary),
        keys=keys(by_split["train"], final, config, summary),
        charts=charts,
        most=2 * BINS,
        exported=exported(config, summary),
        sets=list(final),
        results=results(final),
        pictures=drawn,
        splits=list(summary["data"]),
        data=data_rows(summary["data"]),
        targets=target_rows(summary["targets"]),
        model=model_rows(summary),
        speed=list(speed(by_split["train"]).items()),
        versions=list(summary["versions"].items()),
        config=flat(config),
        logged=[logged(split, lines) for split, lines in by_split.items() if lines],
        script={
            "epochs_per_step": summary["epochs_per_step"],
            "epochs": summary.get("epochs"),  # not in runs of earlier versions
            "drawings": [drawing["data"] for drawing in charts + clouds],
        },
        width=WIDTH,
        height=HEIGHT,
    )


def last_evaluations(by_split: Mapping[str, list[Record]], step: int | None) -> dict[str, Record]:
    """Evaluation set -> its last line up to `step`, the step that model/ holds (None: up to the end)."""
    lines = {
        split: [line for line in lines if step is None or line["step"] <= step]
        for split, lines in by_split.items()
        if split != "train"
    }
    return {split: found[-1] for split, found in lines.items() if found}


def draw_curves(by_split: Mapping[str, list[Record]], last: int) -> list[dict[str, Any]]:
    """A drawing for each metric that training logs or that was evaluated more than once."""
    found: dict[str, dict[str, Series]] = {metric: {} for metric in TITLES}
    for hue, (split, lines) in enumerate(by_split.items()):
        for metric in dict.fromkeys(metric for line in lines for metric in line if metric not in NOT_DRAWN):
            having = [line for line in lines if metric in line]
            steps = np.array([line["step"] for line in having])
            values = np.array([line[metric] for line in having], np.float64)  # None becomes NaN
            found.setdefault(metric, {})[split] = Series(hue, steps, values)
    return [
        curves(*TITLES.get(metric, (metric, "", None)), series, last)
        for metric, series in found.items()
        if "train" in series or any(len(one.steps) > 1 for one in series.values())
    ]


def draw_pictures(pictures: list[Record], final: Mapping[str, Record], splits: list[str]) -> list[dict[str, Any]]:
    """The figures of the evaluations in `final`, with scatter plots drawn."""
    return [
        {
            "split": split,
            "step": line["step"],
            "hue": splits.index(split),
            "figures": [cloud(one) if one["figure"] == "scatter" else one for one in line["figures"]],
        }
        for split in final
        for line in pictures
        if (line["split"], line["step"]) == (split, final[split]["step"])
    ]


def state(step: int, summary: Mapping[str, Any]) -> tuple[str, str]:
    """(kind, sentence): how far the run got."""
    where = f"step {step:,} of {summary['steps']:,}"
    if summary["ended"] is not None:
        return "stopped", f"Ended at {where}: {summary['ended']}"
    if summary["model_step"] is None:
        return "open", f"Not finished: {where}"
    return "complete", f"Complete: {where}"


def keys(
    train: list[Record], final: Mapping[str, Record], config: Mapping[str, Any], summary: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """(name, value) of the most important numbers, for the top of the page."""
    split, _, best = (config["save"]["best"] or "").partition("/")
    found = []
    for name, line in final.items():
        metrics = [metric for metric in line if metric not in NOT_DRAWN]
        first = next((metric for metric in metrics if not metric.endswith("loss")), "loss")
        chosen = best if split == name and best in line else first
        found.append((f"{name} {chosen}", number(line[chosen])))
    if train:
        found += [("training loss", number(train[-1]["loss"])), ("epochs", f"{train[-1]['epoch']:.2f}")]
    found.append(("parameters that train", human(summary["parameters"]["trained"])))
    rates = speed(train)
    return found + [(name, rates[name]) for name in ("tokens a second", "time of the steps") if rates]


def exported(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Which step the final metrics belong to."""
    step = summary["model_step"]
    if step is None:
        return "The latest evaluation of each set."
    best = config["save"]["best"]
    if best and summary["model_score"] is None:
        return f"model/ holds step {step:,}, the newest: no checkpoint has a finite {best}."
    return f"model/ holds step {step:,}, " + (f"the best by {best}." if best else "the last.")


def results(final: Mapping[str, Record]) -> list[list[Any]]:
    """Rows: a metric and its value on each set."""
    metrics = dict.fromkeys(metric for line in final.values() for metric in line if metric not in NOT_DRAWN)
    return [[metric, *(line.get(metric) for line in final.values())] for metric in metrics]


def logged(split: str, lines: list[Record]) -> dict[str, Any]:
    """A table of the lines of metrics.jsonl; of many lines an even sample."""
    columns = list(dict.fromkeys(key for line in lines for key in line if key != "split"))
    drawn = evenly(lines, MAX_LOGGED)
    part = f"{len(drawn):,} of {len(lines):,}" if len(drawn) < len(lines) else f"{len(lines):,}"
    rows = [[line.get(column) for column in columns] for line in drawn]
    return {"title": f"{split}: {part} lines of metrics.jsonl", "columns": columns, "rows": rows}


def speed(train: list[Record]) -> dict[str, str]:
    """Name -> rate, as the median over log points; {} before the first one."""
    pieces = [
        (line, line["step"] - former)
        for former, line in zip([0, *(line["step"] for line in train)], train, strict=False)
        if line.get("steps_per_second")
    ]
    if not pieces:
        return {}
    seconds = [steps / line["steps_per_second"] for line, steps in pieces]
    tokens = sum(line["tokens_per_second"] * time for (line, _), time in zip(pieces, seconds, strict=True))

    def median(metric: str) -> float | None:
        values = [line[metric] for line, _ in pieces if line.get(metric) is not None]
        return statistics.median(values) if values else None

    found = {
        "tokens a second": number(median("tokens_per_second")),
        "steps a second": number(median("steps_per_second")),
        "time of the steps": duration(sum(seconds)),
        "tokens trained on": human(tokens),
        "most memory": f"{max(line.get('memory_bytes') or 0 for line, _ in pieces) / 2**30:.2f} GiB",
    }
    used = median("mfu")
    return found | ({"FLOPs utilisation": f"{used:.1%}"} if used is not None else {})


def model_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of sizes and devices."""
    parameters, devices, batches = (summary[name] for name in ("parameters", "devices", "batches"))
    total = parameters["trained"] + parameters["frozen"]
    mesh = " × ".join(f"{axis} {size}" for axis, size in devices["mesh"].items() if size > 1)
    shapes = ", ".join(f"{rows} × {length}" for rows, length in batches["shapes"])
    return [
        ("parameters that train", f"{parameters['trained']:,} ({parameters['trained'] / total:.1%})"),
        ("frozen parameters", f"{parameters['frozen']:,}"),
        ("weights and optimizer", f"{parameters['bytes'] / 2**30:.2f} GiB"),
        ("computed in", summary["dtype"]),
        ("devices", f"{devices['count']} × {devices['kind']}" + (f" ({mesh})" if mesh else "")),
        ("padding", f"{1 - batches['useful']:.1%} of the tokens in a batch"),
        ("batch shapes", f"{shapes} (rows × tokens)"),
    ]


def data_rows(reports: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """Rows: what a data report (data/encoded.py) counts, and its number in each set."""
    sets = list(reports.values())
    reasons = dict.fromkeys(reason for report in sets for reason in report["dropped"])
    words = {
        "rows": "rows read",
        "kept": "examples",
        "windows": "their windows",
        "empty": "examples without text",
        "tokens": "tokens",
        "unknown": "tokens unknown to the tokenizer",
        "truncated": "examples cut off at config.max_len",
        "chunks": "chunks",
        "left": "tokens left over",
    }
    given = {key for report in sets for key in report}
    facts = [[word, *(report.get(key) for report in sets)] for key, word in words.items() if key in given]
    faults = dict.fromkeys(kind for report in sets for kind in report.get("faults", {}))
    facts += [[f"rows with {kind}", *(report.get("faults", {}).get(kind, 0) for report in sets)] for kind in faults]
    dropped = [[f"rows left out: {why}", *(report["dropped"].get(why, 0) for report in sets)] for why in reasons]
    noted = dict.fromkeys(what for report in sets for what in report["notes"])
    notes = [[what, *(report["notes"].get(what, 0) for report in sets)] for what in noted]
    return facts[:2] + dropped + facts[2:] + notes


def target_rows(targets: Mapping[str, Mapping[str, float]]) -> dict[str, Any] | None:
    """Rows: a target and its number in each set; of many targets those most common in training."""
    names = list(dict.fromkeys(name for stats in targets.values() for name in stats))
    if not names:
        return None
    chosen = sorted(names, key=lambda name: -targets["train"].get(name, 0))[:MAX_TARGETS]
    many = len(names) > MAX_TARGETS
    title = f"Targets: the {MAX_TARGETS} most common of {len(names):,}" if many else "Targets"
    rows = [[name, *(stats.get(name) for stats in targets.values())] for name in names if name in set(chosen)]
    return {"title": title, "rows": rows}


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """(dotted name, value) of every field of a configuration. The value of a component is its class."""
    if isinstance(value, dict) and value:
        own = [(prefix, value["class"])] if "class" in value and prefix else []
        inner = [(f"{prefix}.{key}" if prefix else key, item) for key, item in value.items() if key != "class"]
        return own + [row for key, item in inner for row in flat(item, key)]
    return [(prefix, value if isinstance(value, str) else repr(value))]


def evenly(items: list[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def number(value: float | str | None) -> str:
    """1,234 or 12.3 or 0.1234 or 3.00e-5; assets/report/page.js has the same function."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "–"
    if isinstance(value, str):
        return value
    size = abs(value)
    if isinstance(value, int) or size >= 1000:
        return f"{value:,.0f}"
    if size and size < 1e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{digits}e{int(exponent)}"
    return f"{value:.1f}" if size >= 100 else f"{value:.4f}"


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(assets.path("report")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template("page.html")
