"""Curves and point clouds as SVG paths: which points are drawn, where, and what stands at the axes.

A drawing is a dict for the template: `paths`, ticks, and `data`, what the page's script needs to show values.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

STRETCHES = 400  # a long curve is cut into so many; each keeps its smallest and its largest value
WIDTH, HEIGHT = 2000, 1000  # of a drawing, in its own units: the page stretches it
DOTS = 40  # a curve of no more points shows each of them


@dataclass
class Axis:
    """From value to place: 0 at `low`, 1 at `high`."""

    low: float
    high: float
    log: bool = False

    def at(self, values) -> np.ndarray:
        low, high, values = (np.log(v) if self.log else np.asarray(v) for v in (self.low, self.high, values))
        return (values - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """(place in per cent, label)."""
        values = _decades(self.low, self.high) if self.log else _steps(self.low, self.high)
        words = [labels([value])[0] for value in values] if self.log else labels(values)
        return [(round(100 * float(self.at(v)), 2), label) for v, label in zip(values, words, strict=True)]


def curves(title: str, unit: str, floor: float | None, series: dict[str, tuple], last: int) -> dict:
    """A drawing of curves over steps 0 to `last`; `series` is name -> (hue, steps, values), NaN where there is none.

    `floor` is a value that the axis reaches down to; None: it begins where the curves do.
    """
    x, y = Axis(0, max(last, 1)), y_axis(np.concatenate([values for _, _, values in series.values()]), floor)
    lines, data = [], []
    for whole, (hue, *points) in series.items():
        for kind, name, steps, values in layers(whole, *points):
            across, up = x.at(steps), y.at(values)
            marks = dots(across, up) if len(values) <= DOTS else ""
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


def cloud(figure: dict) -> dict:
    """A drawing of a scatter figure (jaxft/reports/figures.py), on equal axes."""
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
    """A curve for those who do not see it."""
    kept = np.flatnonzero(np.isfinite(values))
    if not len(kept):
        return f"{name}: no finite value"
    first, last, least, most = kept[0], kept[-1], np.nanargmin(values), np.nanargmax(values)
    first, last, least, most = (f"{values[i]:.4g} at step {steps[i]:,}" for i in (first, last, least, most))
    return f"{name}: from {first} to {last}; smallest {least}, largest {most}"


def short(value: float) -> float | None:
    """Six digits, more than a screen shows; None for NaN, which JSON lacks."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def y_axis(values: np.ndarray, floor: float | None = None) -> Axis:
    """Around all finite `values`; logarithmic where a few would push the rest to the floor."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 30 * np.median(values):
        return Axis(float(values.min()) / 1.1, float(values.max()) * 1.1, log=True)
    return linear(values, floor)


def linear(values: np.ndarray, floor: float | None = None) -> Axis:
    """With some room around `values`, but none below `floor`."""
    if not len(values):
        return Axis(0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    low = low if floor is None else min(low, floor)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return Axis(low if low == floor else low - room, high + room)


def layers(name: str, steps: np.ndarray, values: np.ndarray) -> list[tuple]:
    """(kind, name, steps, values) of what is drawn for a curve: itself, or if it is long its extremes and its means."""
    kept = thin(values)
    if len(kept) == len(values):
        return [("line", name, steps, values)]
    pieces = np.array_split(np.arange(len(values)), STRETCHES)
    finite = [piece[np.isfinite(values[piece])] for piece in pieces]
    means = np.array([values[piece].mean() if len(piece) else np.nan for piece in finite])
    middles = steps[[piece[len(piece) // 2] for piece in pieces]]
    return [("band", name, steps[kept], values[kept]), ("mean", f"{name}, mean", middles, means)]


def thin(values: np.ndarray) -> np.ndarray:
    """Numbers of the points to draw, ascending, for values (n,) with NaN where there is none.

    All of them up to 2 * STRETCHES; of more, the first and the last, and of each of STRETCHES equal stretches the
    smallest, the largest and the first NaN: no peak and no gap is lost.
    """
    count = len(values)
    if count <= 2 * STRETCHES:
        return np.arange(count)
    kept = {0, count - 1}
    for piece in np.array_split(np.arange(count), STRETCHES):
        missing = np.isnan(values[piece])
        if missing.any():
            kept.add(int(piece[missing.argmax()]))
        if not missing.all():
            kept |= {int(piece[np.nanargmin(values[piece])]), int(piece[np.nanargmax(values[piece])])}
    return np.array(sorted(kept))


def path(x: np.ndarray, y: np.ndarray) -> str:
    """A line through places between 0 and 1, broken where `y` is NaN; a point with no neighbour becomes a dot."""
    places = [None if math.isnan(b) else _place(a, b) for a, b in zip(x, y, strict=True)]
    pieces = [list(run) for missing, run in itertools.groupby(places, lambda place: place is None) if not missing]
    return "".join(f"M{'L'.join(piece)}{'h0' if len(piece) == 1 else ''}" for piece in pieces)


def dots(x: np.ndarray, y: np.ndarray) -> str:
    """A dot at each place: lines of no length, which round ends make visible."""
    return "".join(f"M{_place(a, b)}h0" for a, b in zip(x, y, strict=True) if not math.isnan(b))


def labels(values: list[float]) -> list[str]:
    """Short, and alike for evenly spaced ticks: 0.50, 7.5k, 5e-4."""
    largest = max(map(abs, values), default=0)
    if 0 < largest < 1e-2:
        return [_power(value) for value in values]
    units = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
    unit, sign = next(((unit, sign) for least, unit, sign in units if largest >= least), (1, ""))
    scaled = [float(f"{value / unit:.12g}") for value in values]
    digits = max((len(f"{value:.12g}".partition(".")[2]) for value in scaled), default=0)
    return [f"{value:.{digits}f}{sign if value else ''}" if value else "0" for value in scaled]


def _place(x: float, y: float) -> str:
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
    """Powers of ten; where there would be fewer than three, also twice and five times them."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        values = [value for value in values if low <= value <= high]
        if len(values) >= 3:
            break
    return values[:: max(1, len(values) // 5)]
