"""Confidence intervals of metrics by the bootstrap."""

from collections.abc import Callable

import numpy as np

LEVEL = 0.95


def intervals(
    measure: Callable[[np.ndarray], dict[str, float]], rows: int, resamples: int, seed: int = 0
) -> dict[str, list[float]]:
    """[low, high] of each metric: its 95% percentile interval (Efron and Tibshirani 1993, section 13.3).

    `measure(drawn)` gives the metrics of the rows with the numbers `drawn`, int64 (rows,), drawn with replacement. A
    resample in which a metric is undefined (missing, or NaN) is left out of its interval. Only one resample is in
    memory at a time.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        for name, value in measure(rng.integers(rows, size=rows)).items():
            found.setdefault(name, []).append(value)
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    defined = {name: [value for value in values if not np.isnan(value)] for name, values in found.items()}
    return {name: np.quantile(values, ends).tolist() for name, values in defined.items() if values}
