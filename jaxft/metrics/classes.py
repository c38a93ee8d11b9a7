"""Metrics of predicted classes and labels, from counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logit

from jaxft.metrics.declared import Metric, higher


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes): rows are the true class, columns the predicted one."""
    return np.bincount(targets * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """F1 (classes,) from a confusion matrix; 0 for a class that is predicted or true but never both.

    NaN for a class that is neither predicted nor true: macro averages leave it out, as in scikit-learn.
    """
    hits = np.diag(counts)
    seen = counts.sum(0) + counts.sum(1)
    with np.errstate(invalid="ignore"):
        return np.where(seen > 0, 2 * hits / seen, np.nan)


def matthews_correlation(counts: np.ndarray) -> float:
    """Multi-class Matthews correlation (Gorodkin 2004, R_K); 0 if targets or predictions have a single class."""
    counts = counts.astype(np.float64)
    true, predicted, all_, hits = counts.sum(1), counts.sum(0), counts.sum(), np.trace(counts)
    spread = np.sqrt((all_**2 - predicted @ predicted) * (all_**2 - true @ true))
    return float((hits * all_ - true @ predicted) / spread) if spread > 0 else 0.0


def classification_declared(classes: int) -> dict[str, Metric]:
    """Declarations of the metrics of `classification_metrics`."""
    binary = higher("f1", "precision", "recall") if classes == 2 else {}
    return higher("accuracy", "f1_macro", "f1_weighted", "matthews_correlation") | binary


def classification_metrics(
    targets: np.ndarray, predictions: np.ndarray, classes: int, positive: int = 1
) -> dict[str, float]:
    """accuracy, f1_macro, f1_weighted, matthews_correlation; with two classes also f1, precision, recall.

    The last three are those of the class `positive`. `targets` and `predictions` are class numbers (examples,).
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
        hits = counts[positive, positive]
        metrics["f1"] = float(np.nan_to_num(scores[positive]))
        metrics["precision"] = float(hits / max(counts[:, positive].sum(), 1))
        metrics["recall"] = float(hits / max(counts[positive].sum(), 1))
    return metrics


TAGS = higher("accuracy", "f1_macro")


def tag_metrics(targets: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, float]:
    """accuracy, f1_macro over the classes that occur. Both are class numbers (words,); a prediction may be -1, none."""
    counts = confusion(targets, np.where(predictions < 0, classes, predictions), classes + 1)
    return {
        "accuracy": float(np.mean(targets == predictions)),
        "f1_macro": float(np.nanmean(f1_scores(counts)[:classes])),
    }


CHOICES = higher("accuracy", "mrr")


def choice_metrics(targets: np.ndarray, scores: np.ndarray, index: np.ndarray) -> dict[str, float]:
    """accuracy, and mrr, the mean of 1 / rank of the right choice; of equal scores the first ranks higher.

    All are (choices,): `targets` 1 for the right choice, its `scores`, and `index`, the number of its example. The
    choices of an example are consecutive.
    """
    right = np.flatnonzero(targets > 0)
    example = np.cumsum(np.diff(index, prepend=index[:1]) != 0)  # from 0
    best = scores[right][example]
    ahead = (scores > best) | ((scores == best) & (np.arange(len(scores)) < right[example]))
    ranks = 1 + np.bincount(example, ahead)
    return {"accuracy": float(np.mean(ranks == 1)), "mrr": float(np.mean(1 / ranks))}


def above(logits: np.ndarray, thresholds: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Whether the probabilities of logits (..., labels) are above `thresholds`: one number, or one for each label."""
    return logits > logit(np.asarray(thresholds, np.float64))


LABELS = higher("accuracy", "f1_micro", "f1_macro")


def multilabel_metrics(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """accuracy (all labels of an example are right), f1_micro, f1_macro over labels.

    Both are 0/1 arrays (examples, labels).
    """
    hits = (targets & predictions).sum(0)
    seen = targets.sum(0) + predictions.sum(0)
    per_label = np.where(seen > 0, 2 * hits / np.maximum(seen, 1), 0.0)
    return {
        "accuracy": float((targets == predictions).all(1).mean()),
        "f1_micro": float(2 * hits.sum() / max(seen.sum(), 1)),
        "f1_macro": float(per_label.mean()),
    }


def precision_recall_f1(hits: Any, true: Any, predicted: Any) -> dict[str, Any]:
    """precision, recall and f1 from counts of hits, true ones and predicted ones; 0 where a divisor is 0.

    The counts are numbers, or arrays of one shape; so are the results.
    """
    return {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(true, 1),
        "f1": 2 * hits / np.maximum(true + predicted, 1),
    }


def averages(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> dict[str, dict[str, float]]:
    """precision, recall and f1 by kind of average: micro, macro, weighted (by true counts). Counts are (classes,)."""
    scores = precision_recall_f1(hits, true, predicted)
    return {
        "micro": precision_recall_f1(hits.sum(), true.sum(), predicted.sum()),
        "macro": {name: values.mean() for name, values in scores.items()},
        "weighted": {name: values @ true / max(true.sum(), 1) for name, values in scores.items()},
    }


def score_lines(
    names: Sequence[str], hits: np.ndarray, true: np.ndarray, predicted: np.ndarray
) -> list[dict[str, Any]]:
    """JSON objects with precision, recall and f1: one for each `class`, with the `rows` that have it, then averages.

    The counts are (classes,), with at least one class.
    """
    scores = precision_recall_f1(hits, true, predicted)
    per_class = [{name: values[number] for name, values in scores.items()} for number in range(len(names))]
    heads: list[dict[str, Any]] = [{"class": name, "rows": int(rows)} for name, rows in zip(names, true, strict=True)]
    means = averages(hits, true, predicted)
    heads += [{"average": kind, "rows": int(true.sum())} for kind in means]
    numbers = [{name: float(value) for name, value in line.items()} for line in (*per_class, *means.values())]
    return [head | line for head, line in zip(heads, numbers, strict=True)]


def class_lines(targets: np.ndarray, predictions: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """`score_lines` of the classes that are true or predicted. Both are class numbers (examples,)."""
    counts = confusion(targets, predictions, len(labels))
    hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    seen = true + predicted > 0
    return score_lines([*np.array(labels, object)[seen]], hits[seen], true[seen], predicted[seen])


def label_lines(targets: np.ndarray, predictions: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """`score_lines` of all labels. Both are 0/1 arrays (examples, labels)."""
    return score_lines(list(labels), (targets & predictions).sum(0), targets.sum(0), predictions.sum(0))
