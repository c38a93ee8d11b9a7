"""Metrics of predicted numbers."""

import numpy as np

from jaxft.metrics.declared import higher, lower

REGRESSION = lower("mse", "mae") | higher("pearson", "spearmanr")


def regression_metrics(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """mse, mae, pearson, spearmanr; both arrays are (examples,). The correlation with a constant is 0."""
    from scipy import stats

    targets, predictions = targets.astype(np.float64), predictions.astype(np.float64)
    varied = len(targets) > 1 and np.ptp(targets) > 0 and np.ptp(predictions) > 0
    return {
        "mse": float(np.mean((targets - predictions) ** 2)),
        "mae": float(np.mean(np.abs(targets - predictions))),
        "pearson": float(stats.pearsonr(targets, predictions).statistic) if varied else 0.0,
        "spearmanr": float(stats.spearmanr(targets, predictions).statistic) if varied else 0.0,
    }
