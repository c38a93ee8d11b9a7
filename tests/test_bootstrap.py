"""Intervals of metrics: SciPy's bootstrap, their coverage, and what is undefined in some resamples."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from jaxft.metrics.bootstrap import intervals
from jaxft.metrics.probabilities import auroc


@pytest.mark.parametrize("rows", [1, 2, 9, 150])
def test_the_mean_as_by_scipy(rows):
    """The same resamples: SciPy draws its own by the same generator."""
    values = np.random.default_rng(rows).exponential(size=rows)
    found = intervals(lambda drawn: {"mean": float(values[drawn].mean())}, rows, 300, seed=7)["mean"]
    if rows == 1:
        assert found == [values[0], values[0]]
        return
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=300, batch=1, method="percentile", rng=np.random.default_rng(7)
    ).confidence_interval
    assert found == pytest.approx([theirs.low, theirs.high], abs=1e-12)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=40)

    def measure(drawn):
        return {"mean": float(values[drawn].mean())}

    assert intervals(measure, 40, 100) == intervals(measure, 40, 100) != intervals(measure, 40, 100, seed=1)


def test_coverage():
    """Of 300 samples of 80 coins about 95% have the coin's bias in the interval of their mean."""
    rng, covered = np.random.default_rng(3), 0
    for number in range(300):
        values = (rng.random(80) < 0.7).astype(float)
        low, high = intervals(lambda drawn, values=values: {"mean": float(values[drawn].mean())}, 80, 200, number)[
            "mean"
        ]
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_resamples_in_which_a_metric_is_undefined():
    true, scores = np.array([True, False, False, False]), np.array([0.9, 0.1, 0.2, 0.3])
    found = intervals(lambda drawn: {"auroc": auroc(true[drawn], scores[drawn]), "nan": float("nan")}, 4, 200)
    assert found == {"auroc": [1.0, 1.0]}
    missing = intervals(lambda drawn: {"a": 1.0} if 0 in drawn else {}, 4, 200)
    assert missing == {"a": [1.0, 1.0]}


def test_memory_does_not_grow_with_resamples_times_rows():
    values = np.random.default_rng(0).normal(size=100_000)
    tracemalloc.start()
    intervals(lambda drawn: {"mean": float(values[drawn].mean())}, len(values), 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * values.nbytes  # a tenth of all resamples
