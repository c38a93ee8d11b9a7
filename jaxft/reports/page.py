"""The text of report.html: a pure function of what a work directory holds."""

import functools
import math
import statistics

import jinja2
import numpy as np

from jaxft import assets
from jaxft.reports.curves import HEIGHT, STRETCHES, WIDTH, cloud, curves
from jaxft.reports.format import human
from jaxft.reports.sinks import duration

# Metric -> title, unit, where its axis begins. Others follow under their own name.
TITLES = {
    "loss": ("Loss", "", None),
    "learning_rate": ("Learning rate", "", 0.0),
    "grad_norm": ("Gradient norm", "before clipping", None),
    "tokens_per_second": ("Throughput", "tokens/s without padding", 0.0),
    "mfu": ("FLOPs utilisation", "share of the chips' peak", 0.0),
}
UNDRAWN = ("step", "split", "epoch", "skipped", "steps_per_second", "memory_bytes")
LOGGED, TALLIED = 50, 100  # rows of a table: log points, classes


def page(name: str, metrics: list[dict], pictures: list[dict], config: dict, summary: dict) -> str:
    """HTML for a run called `name`; the other arguments are the files' contents, see reports/report.py."""
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
        most=2 * STRETCHES,
        exported=exported(config, summary),
        sets=list(final),
        results=results(final),
        pictures=drawn,
        splits=list(summary["data"]),
        data=data_rows(summary["data"]),
        tallies=tally_rows(summary["targets"]),
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


def last_evaluations(by_split: dict[str, list[dict]], step: int | None) -> dict[str, dict]:
    """By evaluation set: its last line up to `step`, which is what model/ holds; None: up to the end."""
    lines = {
        split: [line for line in lines if step is None or line["step"] <= step]
        for split, lines in by_split.items()
        if split != "train"
    }
    return {split: found[-1] for split, found in lines.items() if found}


def draw_curves(by_split: dict[str, list[dict]], last: int) -> list[dict]:
    """A drawing for each metric that training logs or that was evaluated more than once."""
    found: dict[str, dict[str, tuple]] = {metric: {} for metric in TITLES}
    for hue, (split, lines) in enumerate(by_split.items()):
        for metric in dict.fromkeys(metric for line in lines for metric in line if metric not in UNDRAWN):
            pairs = [(line["step"], line[metric]) for line in lines if metric in line]
            steps, values = zip(*pairs, strict=True)
            values = np.array(values, np.float64)  # None becomes NaN
            found.setdefault(metric, {})[split] = (hue, np.array(steps), values)
    return [
        curves(*TITLES.get(metric, (metric, "", None)), series, last)
        for metric, series in found.items()
        if "train" in series or any(len(steps) > 1 for _, steps, _ in series.values())
    ]


def draw_pictures(pictures: list[dict], final: dict[str, dict], splits: list[str]) -> list[dict]:
    """The pictures that belong to the final metrics, their scatter plots drawn."""
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


def state(step: int, summary: dict) -> tuple[str, str]:
    """(kind, sentence): how far the run came."""
    where = f"step {step:,} of {summary['steps']:,}"
    if summary["ended"] is not None:
        return "stopped", f"Ended at {where}: {summary['ended']}"
    if summary["model_step"] is None:
        return "open", f"Not finished: {where}"
    return "complete", f"Complete: {where}"


def keys(train: list[dict], final: dict, config: dict, summary: dict) -> list[tuple[str, str]]:
    """What one looks for first."""
    split, _, best = (config["save"]["best"] or "").partition("/")
    found = []
    for name, line in final.items():
        metrics = [metric for metric in line if metric not in UNDRAWN]
        first = next((metric for metric in metrics if not metric.endswith("loss")), "loss")
        chosen = best if split == name and best in line else first
        found.append((f"{name} {chosen}", number(line[chosen])))
    if train:
        found += [("training loss", number(train[-1]["loss"])), ("epochs", f"{train[-1]['epoch']:.2f}")]
    found.append(("parameters that train", human(summary["parameters"]["trained"])))
    rates = speed(train)
    return found + [(name, rates[name]) for name in ("tokens a second", "time of the steps") if rates]


def exported(config: dict, summary: dict) -> str:
    """Which step the final metrics are of."""
    step = summary["model_step"]
    if step is None:
        return "The latest evaluation of each set."
    best = config["save"]["best"]
    if best and summary["model_score"] is None:
        return f"model/ holds step {step:,}, the newest: no checkpoint has a finite {best}."
    return f"model/ holds step {step:,}, " + (f"the best by {best}." if best else "the last.")


def results(final: dict[str, dict]) -> list[list]:
    """Rows of a metric and its value in each set."""
    metrics = dict.fromkeys(metric for line in final.values() for metric in line if metric not in UNDRAWN)
    return [[metric, *(line.get(metric) for line in final.values())] for metric in metrics]


def logged(split: str, lines: list[dict]) -> dict:
    """A table of what was logged, at evenly spaced points if there are many."""
    columns = list(dict.fromkeys(key for line in lines for key in line if key != "split"))
    drawn = evenly(lines, LOGGED)
    part = f"{len(drawn):,} of {len(lines):,}" if len(drawn) < len(lines) else f"{len(lines):,}"
    rows = [[line.get(column) for column in columns] for line in drawn]
    return {"title": f"{split}: {part} lines of metrics.jsonl", "columns": columns, "rows": rows}


def speed(train: list[dict]) -> dict[str, str]:
    """Rates are medians over log points; {} before the first."""
    pieces = [
        (line, line["step"] - former)
        for former, line in zip([0, *(line["step"] for line in train)], train, strict=False)
        if line.get("steps_per_second")
    ]
    if not pieces:
        return {}
    seconds = [steps / line["steps_per_second"] for line, steps in pieces]
    tokens = sum(line["tokens_per_second"] * time for (line, _), time in zip(pieces, seconds, strict=True))

    def middle(metric):
        values = [line[metric] for line, _ in pieces if line.get(metric) is not None]
        return statistics.median(values) if values else None

    found = {
        "tokens a second": number(middle("tokens_per_second")),
        "steps a second": number(middle("steps_per_second")),
        "time of the steps": duration(sum(seconds)),
        "tokens trained on": human(tokens),
        "most memory": f"{max(line.get('memory_bytes') or 0 for line, _ in pieces) / 2**30:.2f} GiB",
    }
    used = middle("mfu")
    return found | ({"FLOPs utilisation": f"{used:.1%}"} if used is not None else {})


def model_rows(summary: dict) -> list[tuple[str, str]]:
    """Sizes and the machine."""
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


def data_rows(reports: dict[str, dict]) -> list[list]:
    """Rows of a fact and its number in each set."""
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


def tally_rows(targets: dict[str, dict]) -> dict | None:
    """Rows of a target's name and its number in each set; of many, those that are most in training."""
    names = list(dict.fromkeys(name for stats in targets.values() for name in stats))
    if not names:
        return None
    chosen = sorted(names, key=lambda name: -targets["train"].get(name, 0))[:TALLIED]
    title = f"Targets: the {TALLIED} commonest of {len(names):,}" if len(names) > TALLIED else "Targets"
    rows = [[name, *(stats.get(name) for stats in targets.values())] for name in names if name in set(chosen)]
    return {"title": title, "rows": rows}


def flat(value, prefix: str = "") -> list[tuple[str, str]]:
    """(dotted name, value) of every field; a component's own name holds its class."""
    if isinstance(value, dict) and value:
        own = [(prefix, value["class"])] if "class" in value and prefix else []
        inner = [(f"{prefix}.{key}" if prefix else key, item) for key, item in value.items() if key != "class"]
        return own + [row for key, item in inner for row in flat(item, key)]
    return [(prefix, value if isinstance(value, str) else repr(value))]


def evenly(items: list, most: int) -> list:
    """At most `most` of them, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def number(value) -> str:
    """1,234 or 12.3 or 0.1234 or 3.00e-5; assets/report/page.js has the same."""
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
