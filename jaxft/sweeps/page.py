"""sweep.html: a sweep on one page, without scripts and without network access."""

import functools
from collections.abc import Mapping
from typing import Any

import jinja2

from jaxft import assets
from jaxft.reports.page import number


def sweep_page(name: str, content: Mapping[str, Any]) -> str:
    """HTML for the sweep `name`; `content` is that of sweep.json."""
    fields = list(dict.fromkeys(field for point in content["points"] for field in point["settings"]))
    lengths = bars(content)
    best = content["best"] and content["best"]["name"]
    points = [
        {
            "name": point["name"],
            "cells": [point["settings"].get(field) for field in fields],
            "mean": number(point["mean"]),
            "std": number(point["std"]),
            "trials": point["trials"],
            "steps": "all" if point["part"] == 1 else f"1/{point['part']}",
            "share": share,
            "best": point["name"] == best,
        }
        for point, share in zip(content["points"], lengths, strict=True)
    ]
    sign = -1 if content["better"] == "max" else 1
    means = {point["name"]: point["mean"] for point in content["points"]}
    points.sort(key=lambda point: (not point["best"], means[point["name"]] is None, sign * (means[point["name"]] or 0)))
    failed = sum(trial["state"] == "failed" for trial in content["trials"])
    return _template().render(name=name, sweep=content, fields=fields, points=points, failed=failed)


def bars(content: Mapping[str, Any]) -> list[float]:
    """For each point its place, in per cent, between the smallest mean and the largest."""
    values = [point["mean"] for point in content["points"]]
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return [0.0 if value is None else round(100 * (value - low) / ((high - low) or 1), 1) for value in values]


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([assets.path("sweep"), assets.path("report")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template("sweep.html")
