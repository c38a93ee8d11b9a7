"""What is drawn of a curve, where, and what its axes say."""

import math
import re

import numpy as np
import pytest

from jaxft.reports.curves import BINS, HEIGHT, MAX_DOTS, WIDTH, Axis, curves, layers, linear, path, thin, y_axis


def value_of(label: str) -> float:
    """What a person reads at a tick."""
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(label[-1], 1.0)
    return float(label.rstrip("kMG")) * scale


@pytest.mark.parametrize("seed", range(8))
def test_ticks_say_where_they_stand(seed):
    rng = np.random.default_rng(seed)
    for _ in range(25):
        low, span = rng.choice([0.0, rng.normal() * 10 ** rng.uniform(-3, 3)]), 10 ** rng.uniform(-6, 10)
        ticks = Axis(low, low + span).ticks()
        assert 3 <= len(ticks) <= 7 and len({label for _, label in ticks}) == len(ticks)
        for place, label in ticks:
            assert 0 <= place <= 100 and len(label) <= 12
            assert value_of(label) == pytest.approx(low + span * place / 100, abs=span * 1e-3)
        low, high = sorted(10 ** rng.uniform(-6, 9, 2))
        high = max(high, 31 * low)
        for place, label in Axis(low, high, log=True).ticks():
            assert value_of(label) == pytest.approx(low * (high / low) ** (place / 100), rel=0.01, abs=0)


def test_ticks_that_people_read():
    def labels(low, high):
        return [label for _, label in Axis(low, high).ticks()]

    assert labels(0, 206) == ["0", "50", "100", "150", "200"]
    assert labels(0.21, 1.4) == ["0.4", "0.6", "0.8", "1.0", "1.2", "1.4"]
    assert labels(0, 5e-4) == ["0", "1e-4", "2e-4", "3e-4", "4e-4", "5e-4"]
    assert labels(0, 11_400) == ["0", "2k", "4k", "6k", "8k", "10k"]
    assert labels(0, 1e6) == ["0", "0.2M", "0.4M", "0.6M", "0.8M", "1.0M"]


def test_ranges():
    assert linear(np.array([])) == Axis(0.0, 1.0)
    same = linear(np.array([3.0, 3.0]))
    assert same.low < 3 < same.high and same.at(3.0) == pytest.approx(0.5)
    assert linear(np.array([2.0, 4.0]), 0.0).low == 0 and linear(np.array([-2.0, 4.0]), 0.0).low < -2
    assert linear(np.array([2.0, 4.0])).low > 1
    # A perplexity that falls from thousands to tens; a loss that has one NaN; one that touches 0.
    assert y_axis(np.array([6000.0, *[40.0] * 9])).log
    assert not y_axis(np.array([6.0, math.nan, 2.0])).log and not y_axis(np.array([6000.0, *[0.0] * 9])).log


@pytest.mark.parametrize("seed", range(20))
def test_a_long_curve_keeps_its_peaks_and_gaps(seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(rng.integers(2 * BINS + 1, 50_000))
    values[rng.integers(0, len(values), 5)] = 1e6 * rng.standard_normal(5)
    gap = rng.integers(1, len(values) - 100)
    values[gap : gap + rng.integers(1, 99)] = math.nan
    kept = thin(values)
    assert len(kept) <= 3 * BINS + 2 and np.all(np.diff(kept) > 0)
    assert kept[0] == 0 and kept[-1] == len(values) - 1
    assert np.isnan(values[kept]).any()
    # Wherever one looks, the range that is drawn is the range that was logged.
    for piece in np.array_split(np.arange(len(values)), BINS):
        if not np.isnan(values[piece]).all():
            drawn = values[kept[(kept >= piece[0]) & (kept <= piece[-1])]]
            assert np.nanmin(drawn) == np.nanmin(values[piece]) and np.nanmax(drawn) == np.nanmax(values[piece])


def test_a_short_curve_is_drawn_as_it_is():
    values = np.arange(2.0 * BINS)
    assert thin(values).tolist() == list(range(2 * BINS))
    ((kind, name, steps, drawn),) = layers("train", np.arange(2 * BINS), values)
    assert (kind, name) == ("line", "train") and drawn is values


def test_means_of_a_long_curve():
    steps, values = np.arange(8000) * 10, np.repeat(np.arange(BINS) * 1.0, 8000 // BINS)
    values[::2] += 0.25
    values[1::2] -= 0.25
    values[-20:] = math.nan
    (_, _, _, extremes), (kind, name, middles, means) = layers("train", steps, values)
    assert (kind, name) == ("mean", "train, mean") and len(extremes) <= 3 * BINS + 2
    assert means[:-1].tolist() == list(range(BINS - 1)) and math.isnan(means[-1])
    assert np.all(np.diff(middles) == 10 * 8000 // BINS)


def test_paths():
    x = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    assert path(x, np.array([0.0, 0.5, 1.0, 0.5, 0.0])) == "M0 1000L500 500L1000 0L1500 500L2000 1000"
    assert path(x, np.array([0.0, 0.5, math.nan, 0.5, math.nan])) == "M0 1000L500 500M1500 500h0"
    assert path(x, np.full(5, math.nan)) == ""


def test_a_drawing_says_what_it_shows():
    steps = np.arange(1, 61)
    loss = 3.0 / steps
    loss[30] = math.nan
    made = curves("Loss", "", None, {"train": (0, steps, loss), "val": (1, steps[::20], loss[::20])}, 60)
    train, val = made["lines"]
    assert train["dots"] == "" and val["dots"].count("h0") == 3 and len(steps) > MAX_DOTS
    numbers = [tuple(map(int, pair.split())) for pair in re.findall(r"\d+ \d+", train["path"])]
    assert len(numbers) == 59 and train["path"].count("M") == 2
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in numbers)
    assert made["data"]["series"][0]["y"][:2] == [3.0, 1.5] and made["data"]["series"][0]["y"][30] is None
    words = "train: from 3 at step 1 to 0.05 at step 60; smallest 0.05 at step 60, largest 3 at step 1"
    assert made["alt"][0] == words
