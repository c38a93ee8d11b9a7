"""What probabilities are worth: whether they put the right ones first, and whether they can be taken at their word."""

import numpy as np
from scipy.special import expit, softmax

from jaxft.metrics.declared import higher, lower

BINS = 15  # of the calibration error, as in Guo et al. 2017
PROBABILITIES = (
    higher("auroc", needs="rows of a class and rows of others")
    | higher("average_precision", needs="rows of a class that is ranked")
    | lower("calibration_error", "brier")
)


def class_probability_metrics(targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """auroc, average_precision, calibration_error and brier of the softmax.

    `targets` (examples,) are class numbers, `logits` (examples, classes). Of two classes the second is ranked; of more
    each against the rest, and their mean is taken (see `ranking_metrics`). The Brier score sums the squares over the
    classes (Brier 1950), and for two classes is half of that, the square of one of them, as in scikit-learn.
    """
    with np.errstate(invalid="ignore"):  # logits of a model that diverged give NaN
        shares = softmax(logits.astype(np.float64), -1)
    classes = logits.shape[1]
    true = targets[:, None] == np.arange(classes)
    ranked = slice(1, 2) if classes == 2 else slice(None)
    squares = ((shares - true) ** 2).sum(1) / (2 if classes == 2 else 1)
    return ranking_metrics(true[:, ranked], shares[:, ranked]) | {
        "calibration_error": calibration_error(shares.max(1), logits.argmax(1) == targets),
        "brier": float(squares.mean()),
    }


def label_probability_metrics(targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """auroc, average_precision, calibration_error and brier of the sigmoids; both arrays are (examples, labels).

    Calibration error and Brier score take each decision, label or no label, for an example of its own.
    """
    true, shares = targets > 0, expit(logits.astype(np.float64))
    confidences = np.maximum(shares, 1 - shares)
    return ranking_metrics(true, shares) | {
        "calibration_error": calibration_error(confidences.ravel(), ((shares > 0.5) == true).ravel()),
        "brier": float(np.mean((shares - true) ** 2)),
    }


def ranking_metrics(true: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """auroc and average_precision, means over the columns of two (examples, columns) arrays, `true` being bool.

    A column that is true everywhere or nowhere has no AUROC, one that is true nowhere no average precision: such are
    left out of the mean, and where nothing remains the metric is left out.
    """
    found = {}
    for name, measure in (("auroc", auroc), ("average_precision", average_precision)):
        values = [measure(*column) for column in zip(true.T, scores.T, strict=True)]
        values = [value for value in values if not np.isnan(value)]
        found |= {name: float(np.mean(values))} if values else {}
    return found


def auroc(true: np.ndarray, scores: np.ndarray) -> float:
    """The area under the ROC curve: how often a true one has the higher score than a false one, a tie being half.

    `true` (n,) is bool. NaN where all are true, or none, or a score is not a number.
    """
    if true.all() or not true.any() or np.isnan(scores).any():
        return float("nan")
    hits, false = _above(true, scores)
    before = np.append(0, hits[:-1])
    area = np.sum(np.diff(false, prepend=0) * (hits + before)) / 2
    return float(area / (hits[-1] * false[-1]))


def average_precision(true: np.ndarray, scores: np.ndarray) -> float:
    """The mean over the true ones of the precision among all that score as high, without interpolation.

    `true` (n,) is bool. NaN where none is true, or a score is not a number.
    """
    if not true.any() or np.isnan(scores).any():
        return float("nan")
    hits, false = _above(true, scores)
    return float(np.sum(np.diff(hits, prepend=0) * hits / (hits + false)) / hits[-1])


def calibration_error(confidences: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): how far accuracy and mean confidence are apart, by bins of
    equal width of the confidence, weighted by their examples.

    `confidences` (n,) are of the chosen class, from 0 to 1; `right` (n,) whether it was right. A bin holds
    its upper end.
    """
    edges = np.arange(1, bins) / bins
    which = np.digitize(confidences, edges, right=True)
    gaps = np.bincount(which, confidences - right, minlength=bins)  # sums: count * (confidence - accuracy)
    return float(np.abs(gaps).sum() / len(right)) if len(right) else float("nan")


def _above(true: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many true and how many false ones score at least as high, for each distinct score from the highest."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    hits = np.cumsum(true[order])[last]
    return hits, last + 1 - hits
