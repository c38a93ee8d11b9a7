"""Metrics of predicted numbers."""

import numpy as np

from jaxft.metrics.declared import higher, lower

REGRESSION = lower("mse", "mae") | higher("pearson", "spearmanr", "r2")


def regression_metrics(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """mse, mae, pearson, spearmanr, r2; both arrays are (examples,). The correlation with a constant is 0.

    r2 is the coefficient of determination: 0 for the mean of the targets as the prediction of every example, and
    negative for what is worse. Of targets that are all equal it is 1 or 0, as in scikit-learn.
    """
    from scipy import stats

    targets, predictions = targets.astype(np.float64), predictions.astype(np.float64)
    error, spread = np.sum((targets - predictions) ** 2), np.sum((targets - targets.mean()) ** 2)
    varied = len(targets) > 1 and np.ptp(targets) > 0 and np.ptp(predictions) > 0
    return {
        "mse": float(np.mean((targets - predictions) ** 2)),
        "mae": float(np.mean(np.abs(targets - predictions))),
        "pearson": float(stats.pearsonr(targets, predictions).statistic) if varied else 0.0,
        "spearmanr": float(stats.spearmanr(targets, predictions).statistic) if varied else 0.0,
        "r2": float(1 - error / spread) if spread > 0 else float(error == 0),
    }
