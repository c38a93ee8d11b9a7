"""Decisions from probabilities: the threshold of one of two classes, and the thresholds with the best F1."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

APART = 1e-9  # probabilities that differ by less are not separated by a threshold


@dataclass(frozen=True)
class Decision:
    """Which class a text gets: the most probable one or, of two, the positive one if it is above a threshold."""

    positive: int = 1  # number of the positive class
    threshold: float | None = None  # of its probability; None: the most probable class, of any number of classes

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """The class numbers for logits, or logarithms of probabilities, (..., classes)."""
        if self.threshold is None:
            return logits.argmax(-1)
        values = logits.astype(np.float64)
        above = values[..., self.positive] - values[..., 1 - self.positive] > logit(self.threshold)
        return np.where(above, self.positive, 1 - self.positive)


def best_threshold(true: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """(threshold, F1) with the best F1 of predicting what is above the threshold.

    Both arrays are (n,), `true` is bool. Of thresholds with the same F1 the one nearest to 0.5; each is the mean of two
    neighbouring probabilities. (0.5, NaN) if nothing is true, or if a probability is NaN.
    """
    if not true.any() or np.isnan(probabilities).any():
        return 0.5, float("nan")
    order = np.argsort(-probabilities, kind="stable")
    ranked = np.append(probabilities[order].astype(np.float64), 0.0)
    ends = np.flatnonzero(ranked[:-1] - ranked[1:] > APART)  # last places above each threshold
    if not len(ends):
        return 0.5, float("nan")  # all probabilities are 0
    hits = np.cumsum(true[order])[ends]
    scores = 2 * hits / (ends + 1 + true.sum())
    thresholds = (ranked[ends] + ranked[ends + 1]) / 2
    best = np.flatnonzero(scores > scores.max() - 1e-12)
    chosen = best[np.abs(thresholds[best] - 0.5).argmin()]
    return float(thresholds[chosen]), float(scores[chosen])


def label_thresholds(targets: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`best_threshold` of each label, from the sigmoids: both results are (labels,), both arguments (n, labels)."""
    shares = expit(logits.astype(np.float64))
    found = [best_threshold(*column) for column in zip((targets > 0).T, shares.T, strict=True)]
    thresholds, scores = zip(*found, strict=True)
    return np.array(thresholds), np.array(scores)
