"""Numbers that add up exactly: (total, count) pairs, and metrics of whole evaluation sets."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Mean(NamedTuple):
    """A mean kept as its two sums, so that pieces of any size add up to the exact whole; divided only when printed."""

    total: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, values: jax.Array, weights: jax.Array) -> "Mean":
        """The weighted mean of `values`; where a weight is 0 the value does not matter, be it NaN."""
        values = jnp.where(weights > 0, values, 0.0)
        return cls(jnp.sum(values * weights), jnp.sum(weights))

    def value(self) -> float:
        """The mean as a Python float; NaN if nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else float("nan")


def add(a: dict[str, Mean], b: dict[str, Mean]) -> dict[str, Mean]:
    """Sums of two dicts of pairs."""
    return jax.tree.map(lambda x, y: x + y, a, b)


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes): rows are the true class, columns the predicted one."""
    return np.bincount(targets * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """F1 of each class from a confusion matrix; 0 for a class that is predicted or true but never both.

    NaN for a class that occurs on neither side: it takes no part in a macro average (as in scikit-learn).
    """
    hits = np.diag(counts)
    seen = counts.sum(0) + counts.sum(1)
    with np.errstate(invalid="ignore"):
        return np.where(seen > 0, 2 * hits / seen, np.nan)


def matthews_correlation(counts: np.ndarray) -> float:
    """Multi-class Matthews correlation (Gorodkin 2004, R_K); 0 where one side has a single class."""
    counts = counts.astype(np.float64)
    true, predicted, all_, hits = counts.sum(1), counts.sum(0), counts.sum(), np.trace(counts)
    spread = np.sqrt((all_**2 - predicted @ predicted) * (all_**2 - true @ true))
    return float((hits * all_ - true @ predicted) / spread) if spread > 0 else 0.0


def classification_metrics(targets: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, float]:
    """accuracy, f1 (of class 1 where there are two classes), f1_macro, f1_weighted, matthews_correlation.

    `targets` and `predictions` are class numbers of the whole evaluation set, shape (examples,).
    """
    counts = confusion(targets, predictions, classes)
    scores, support = f1_scores(counts), counts.sum(1)
    metrics = {
        "accuracy": float(np.trace(counts) / counts.sum()),
        "f1_macro": float(np.nanmean(scores)),
        "f1_weighted": float(np.nansum(scores * support) / support.sum()),
        "matthews_correlation": matthews_correlation(counts),
    }
    if classes == 2:
        positive = counts[1]
        metrics["f1"] = float(np.nan_to_num(scores[1]))
        metrics["precision"] = float(counts[1, 1] / max(counts[:, 1].sum(), 1))
        metrics["recall"] = float(counts[1, 1] / max(positive.sum(), 1))
    return metrics


def tag_metrics(targets: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, float]:
    """accuracy, f1_macro over the classes of either side; class numbers (words,), a prediction of -1 being none."""
    counts = confusion(targets, np.where(predictions < 0, classes, predictions), classes + 1)
    return {
        "accuracy": float(np.mean(targets == predictions)),
        "f1_macro": float(np.nanmean(f1_scores(counts)[:classes])),
    }


def choice_metrics(targets: np.ndarray, scores: np.ndarray, index: np.ndarray) -> dict[str, float]:
    """accuracy, and the mean of 1 / rank of the right choice, the first of equal scores being the better one.

    All (choices,): 1 for a right choice, its score, and the number of its example; those of an example follow each
    other.
    """
    right = np.flatnonzero(targets > 0)
    example = np.cumsum(np.diff(index, prepend=index[:1]) != 0)  # from 0
    best = scores[right][example]
    ahead = (scores > best) | ((scores == best) & (np.arange(len(scores)) < right[example]))
    ranks = 1 + np.bincount(example, ahead)
    return {"accuracy": float(np.mean(ranks == 1)), "mrr": float(np.mean(1 / ranks))}


def multilabel_metrics(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """accuracy (all labels of an example right), f1_micro, f1_macro over labels; 0/1 arrays (examples, labels)."""
    hits = (targets & predictions).sum(0)
    seen = targets.sum(0) + predictions.sum(0)
    per_label = np.where(seen > 0, 2 * hits / np.maximum(seen, 1), 0.0)
    return {
        "accuracy": float((targets == predictions).all(1).mean()),
        "f1_micro": float(2 * hits.sum() / max(seen.sum(), 1)),
        "f1_macro": float(per_label.mean()),
    }


def regression_metrics(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """mse, mae, pearson, spearmanr over the whole set; a correlation with a constant side is 0."""
    from scipy import stats

    targets, predictions = targets.astype(np.float64), predictions.astype(np.float64)
    varied = len(targets) > 1 and np.ptp(targets) > 0 and np.ptp(predictions) > 0
    return {
        "mse": float(np.mean((targets - predictions) ** 2)),
        "mae": float(np.mean(np.abs(targets - predictions))),
        "pearson": float(stats.pearsonr(targets, predictions).statistic) if varied else 0.0,
        "spearmanr": float(stats.spearmanr(targets, predictions).statistic) if varied else 0.0,
    }
