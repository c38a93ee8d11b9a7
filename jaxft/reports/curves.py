"""Curves and scatter plots as SVG paths with axis ticks.

A drawing is a dict for the template in assets/report: paths, ticks, and `data`, from which the page's script shows
values.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

BINS = 400  # of a long curve, of which each keeps its smallest and its largest value
WIDTH, HEIGHT = 2000, 1000  # of a drawing, in its own units; the page scales it
MAX_DOTS = 40  # points of a curve that are marked one by one


class Series(NamedTuple):
    """The points of a curve."""

    hue: int  # which of the page's colours
    steps: np.ndarray  # int (n,)
    values: np.ndarray  # float64 (n,), NaN where there is none


@dataclass
class Axis:
    """Maps values to positions: `low` to 0, `high` to 1."""

    low: float
    high: float
    log: bool = False

    def at(self, values: ArrayLike) -> np.ndarray:
        """Positions of values, of the same shape."""
        low, high, values = (np.log(v) if self.log else np.asarray(v) for v in (self.low, self.high, values))
        return (values - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """(position in per cent, label)."""
        values = _decades(self.low, self.high) if self.log else _steps(self.low, self.high)
        texts = [labels([value])[0] for value in values] if self.log else labels(values)
        return [(round(100 * float(self.at(v)), 2), label) for v, label in zip(values, texts, strict=True)]


def curves(title: str, unit: str, floor: float | None, series: Mapping[str, Series], last: int) -> dict[str, Any]:
    """A drawing of curves over steps 0 to `last`. The axis of values extends down to `floor` (None: to the curves)."""
    x, y = Axis(0, max(last, 1)), y_axis(np.concatenate([values for _, _, values in series.values()]), floor)
    lines, data = [], []
    for curve, (hue, all_steps, all_values) in series.items():
        for kind, name, steps, values in layers(curve, all_steps, all_values):
            across, up = x.at(steps), y.at(values)
            marks = dots(across, up) if len(values) <= MAX_DOTS else ""
            lines.append({"name": name, "kind": kind, "hue": hue, "path": path(across, up), "dots": marks})
            data.append({"name": name, "hue": hue, "x": steps.tolist(), "y": [short(value) for value in values]})
    frame = {"kind": "curves", "x": [x.low, x.high], "y": [short(y.low), short(y.high)], "log": y.log}
    return {
        "title": title,
        "unit": unit,
        "log": y.log,
        "lines": lines,
        "x_ticks": x.ticks(),
        "y_ticks": y.ticks(),
        "alt": [in_words(name, steps, values) for name, (_, steps, values) in series.items()],
        "data": {**frame, "series": data},
    }


def cloud(figure: Mapping[str, Any]) -> dict[str, Any]:
    """A drawing of a scatter figure (reports/figures.py), on equal axes."""
    points = np.array(figure["points"], np.float64).reshape(-1, 2)
    axis = linear(points.ravel())
    places = axis.at(points)
    ticks = axis.ticks()
    frame = {"kind": "cloud", "x": [axis.low, axis.high], "y": [axis.low, axis.high]}
    return {
        **figure,
        "dots": dots(places[:, 0], places[:, 1]),
        "x_ticks": ticks,
        "y_ticks": ticks,
        "data": {**frame, "names": [figure["x"], figure["y"]], "points": figure["points"]},
    }


def in_words(name: str, steps: np.ndarray, values: np.ndarray) -> str:
    """The text alternative of a curve."""
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite):
        return f"{name}: no finite value"
    points = (finite[0], finite[-1], np.nanargmin(values), np.nanargmax(values))
    first, last, least, most = (f"{values[i]:.4g} at step {steps[i]:,}" for i in points)
    return f"{name}: from {first} to {last}; smallest {least}, largest {most}"


def short(value: float) -> float | None:
    """Six digits, more than a screen shows; None for NaN, which JSON does not have."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def y_axis(values: np.ndarray, floor: float | None = None) -> Axis:
    """An axis for all finite `values`; logarithmic if a few large ones would flatten the others."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 30 * np.median(values):
        return Axis(float(values.min()) / 1.1, float(values.max()) * 1.1, log=True)
    return linear(values, floor)


def linear(values: np.ndarray, floor: float | None = None) -> Axis:
    """A linear axis with a margin around `values`, but not below `floor`."""
    if not len(values):
        return Axis(0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    low = low if floor is None else min(low, floor)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return Axis(low if low == floor else low - margin, high + margin)


def layers(name: str, steps: np.ndarray, values: np.ndarray) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """(kind, name, steps, values) of the lines that draw a curve: one line, or for a long curve a band of its extremes
    and a line of its means."""
    extremes = thin(values)
    if len(extremes) == len(values):
        return [("line", name, steps, values)]
    bins = np.array_split(np.arange(len(values)), BINS)
    finite = [one[np.isfinite(values[one])] for one in bins]
    means = np.array([values[one].mean() if len(one) else np.nan for one in finite])
    middles = steps[[one[len(one) // 2] for one in bins]]
    return [("band", name, steps[extremes], values[extremes]), ("mean", f"{name}, mean", middles, means)]


def thin(values: np.ndarray) -> np.ndarray:
    """Indices of the points to draw, ascending, of values (n,), where NaN is a gap.

    All of up to 2 * BINS points. Of more, the first and the last, and in each of BINS bins the smallest, the largest
    and the first NaN, so that no peak and no gap is lost.
    """
    count = len(values)
    if count <= 2 * BINS:
        return np.arange(count)
    kept = {0, count - 1}
    for one in np.array_split(np.arange(count), BINS):
        missing = np.isnan(values[one])
        if missing.any():
            kept.add(int(one[missing.argmax()]))
        if not missing.all():
            kept |= {int(one[np.nanargmin(values[one])]), int(one[np.nanargmax(values[one])])}
    return np.array(sorted(kept))


def path(x: np.ndarray, y: np.ndarray) -> str:
    """A line through positions between 0 and 1, with gaps where `y` is NaN. A point without neighbours is a dot."""
    lines: list[list[str]] = [[]]
    for a, b in zip(x, y, strict=True):
        if not math.isnan(b):
            lines[-1].append(_point(a, b))
        elif lines[-1]:
            lines.append([])
    return "".join(f"M{'L'.join(line)}{'h0' if len(line) == 1 else ''}" for line in lines if line)


def dots(x: np.ndarray, y: np.ndarray) -> str:
    """A dot at each position: lines of length 0, visible by their round ends."""
    return "".join(f"M{_point(a, b)}h0" for a, b in zip(x, y, strict=True) if not math.isnan(b))


def labels(values: list[float]) -> list[str]:
    """Short texts in one format for evenly spaced ticks: 0.50, 7.5k, 5e-4."""
    largest = max(map(abs, values), default=0)
    if 0 < largest < 1e-2:
        return [_power(value) for value in values]
    units = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
    unit, sign = next(((unit, sign) for least, unit, sign in units if largest >= least), (1, ""))
    scaled = [float(f"{value / unit:.12g}") for value in values]
    digits = max((len(f"{value:.12g}".partition(".")[2]) for value in scaled), default=0)
    return [f"{value:.{digits}f}{sign if value else ''}" if value else "0" for value in scaled]


def _point(x: float, y: float) -> str:
    return f"{round(WIDTH * float(x))} {round(HEIGHT * (1 - float(y)))}"


def _power(value: float) -> str:
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    return f"{value / 10**exponent:.8g}e{exponent}"


def _steps(low: float, high: float) -> list[float]:
    """Three to seven round numbers."""
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten; if these are fewer than three, also 2 and 5 times powers of ten."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        values = [value for value in values if low <= value <= high]
        if len(values) >= 3:
            break
    return values[:: max(1, len(values) // 5)]
