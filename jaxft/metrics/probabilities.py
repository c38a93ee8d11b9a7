"""Metrics of probabilities: ranking (AUROC, average precision) and calibration (ECE, Brier score)."""

import numpy as np
from scipy.special import expit, softmax

from jaxft.metrics.declared import higher, lower

BINS = 15  # of the calibration error, as in Guo et al. 2017
PROBABILITIES = (
    higher("auroc", needs="rows of a class and rows of others")
    | higher("average_precision", needs="rows of a class that is ranked")
    | lower("calibration_error", "brier")
)


def class_probability_metrics(targets: np.ndarray, logits: np.ndarray, positive: int = 1) -> dict[str, float]:
    """auroc, average_precision, calibration_error and brier of the softmax.

    `targets` (examples,) are class numbers, `logits` (examples, classes). With two classes, the ranking metrics are
    those of the class `positive`; with more, the mean over each class against the rest (see `ranking_metrics`). The
    Brier score sums the squares over the classes (Brier 1950); with two classes it is the square of one of them, as in
    scikit-learn.
    """
    with np.errstate(invalid="ignore"):  # logits of a model that diverged give NaN
        shares = softmax(logits.astype(np.float64), -1)
    classes = logits.shape[1]
    true = targets[:, None] == np.arange(classes)
    ranked = slice(positive, positive + 1) if classes == 2 else slice(None)
    squares = ((shares - true) ** 2).sum(1) / (2 if classes == 2 else 1)
    return ranking_metrics(true[:, ranked], shares[:, ranked]) | {
        "calibration_error": calibration_error(shares.max(1), logits.argmax(1) == targets),
        "brier": float(squares.mean()),
    }


def label_probability_metrics(targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """auroc, average_precision, calibration_error and brier of the sigmoids; both arrays are (examples, labels).

    For calibration error and Brier score, each label of each example is one decision.
    """
    true, shares = targets > 0, expit(logits.astype(np.float64))
    confidences = np.maximum(shares, 1 - shares)
    return ranking_metrics(true, shares) | {
        "calibration_error": calibration_error(confidences.ravel(), ((shares > 0.5) == true).ravel()),
        "brier": float(np.mean((shares - true) ** 2)),
    }


def ranking_metrics(true: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """auroc and average_precision, means over the columns of `true`, bool, and `scores`, both (examples, columns).

    AUROC is undefined for a column that is all true or all false, average precision for one that is all false. Such
    columns are left out of the mean, and a metric without any column is left out.
    """
    found: dict[str, float] = {}
    for name, measure in (("auroc", auroc), ("average_precision", average_precision)):
        values = [measure(*column) for column in zip(true.T, scores.T, strict=True)]
        values = [value for value in values if not np.isnan(value)]
        found |= {name: float(np.mean(values))} if values else {}
    return found


def auroc(true: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive scores higher than a negative; ties count half.

    `true` (n,) is bool. NaN if all are positive, or none, or if a score is NaN.
    """
    if true.all() or not true.any() or np.isnan(scores).any():
        return float("nan")
    hits, false = _above(true, scores)
    before = np.append(0, hits[:-1])
    area = np.sum(np.diff(false, prepend=0) * (hits + before)) / 2
    return float(area / (hits[-1] * false[-1]))


def average_precision(true: np.ndarray, scores: np.ndarray) -> float:
    """The mean, over the positives, of the precision at their score, without interpolation.

    `true` (n,) is bool. NaN if none is positive, or if a score is NaN.
    """
    if not true.any() or np.isnan(scores).any():
        return float("nan")
    hits, false = _above(true, scores)
    return float(np.sum(np.diff(hits, prepend=0) * hits / (hits + false)) / hits[-1])


def calibration_error(confidences: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3).

    The gap between accuracy and mean confidence in bins of equal width, weighted by their number of examples.
    `confidences` (n,) are those of the chosen class, from 0 to 1; `right` (n,) says whether it is the true one. A bin
    includes its upper end.
    """
    edges = np.arange(1, bins) / bins
    which = np.digitize(confidences, edges, right=True)
    gaps = np.bincount(which, confidences - right, minlength=bins)  # sums: count * (confidence - accuracy)
    return float(np.abs(gaps).sum() / len(right)) if len(right) else float("nan")


def _above(true: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each distinct score, from the highest: how many positives and negatives have at least this score."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    hits = np.cumsum(true[order])[last]
    return hits, last + 1 - hits
