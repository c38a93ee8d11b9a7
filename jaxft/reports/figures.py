"""Figures of an evaluation: confusion matrices, tables and scatter plots, as JSON values that the report draws.

Every figure has `figure` (its kind) and `title`; the functions `matrix`, `table` and `scatter` show the other keys. Its
size does not grow with the evaluation set.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft.metrics import confusion

MAX_CLASSES = 30  # of a matrix; with more, cells are unreadable
MAX_ROWS = 100  # of a table
MAX_POINTS = 1000  # of a scatter plot

Figure = dict[str, Any]


def matrix(title: str, down: str, across: str, names: Sequence[str], counts: np.ndarray) -> Figure:
    """Counts (names, names); `down` is the caption of the rows, `across` that of the columns."""
    return {
        "figure": "matrix",
        "title": title,
        "down": down,
        "across": across,
        "names": list(names),
        "counts": counts.tolist(),
    }


def table(title: str, columns: list[str], rows: list[list[str | float | None]]) -> Figure:
    """A table. The first column names the row; None is an empty cell."""
    return {"figure": "table", "title": title, "columns": columns, "rows": rows}


def scatter(title: str, x: str, y: str, points: np.ndarray) -> Figure:
    """Points (n, 2) on equal axes with the diagonal. Of many points an even sample is drawn, and the title says so."""
    finite = points[np.isfinite(points).all(1)]
    drawn = finite[_evenly(len(finite), MAX_POINTS)]
    if len(drawn) < len(points):
        title = f"{title}: {len(drawn):,} of {len(points):,} examples"
    return {"figure": "scatter", "title": title, "x": x, "y": y, "points": _short(drawn)}


def class_figures(targets: np.ndarray, predictions: np.ndarray, labels: Sequence[str]) -> list[Figure]:
    """The confusion matrix (with many classes the most common mistakes) and a table of scores per class.

    `targets` and `predictions` are class ids of the whole evaluation set, shape (examples,).
    """
    counts = confusion(targets, predictions, len(labels))
    scores = _score_table("Classes", "class", labels, np.diag(counts), counts.sum(1), counts.sum(0))
    if len(labels) <= MAX_CLASSES:
        return [matrix("Confusion matrix", "true class", "predicted class", labels, counts), scores]
    wrong = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_ROWS]
    pairs = [(*divmod(int(place), len(labels)), int(wrong.flat[place])) for place in order if wrong.flat[place]]
    rows: list[list[str | float | None]] = [
        [labels[true], labels[found], count, _share(count, counts[true].sum())] for true, found, count in pairs
    ]
    columns = ["true class", "predicted class", "examples", "share of the class"]
    return [table("Most common mistakes", columns, rows), scores]


def label_figures(targets: np.ndarray, predictions: np.ndarray, labels: Sequence[str]) -> list[Figure]:
    """A table of scores per label, from 0/1 arrays (examples, labels)."""
    return [_score_table("Labels", "label", labels, (targets & predictions).sum(0), targets.sum(0), predictions.sum(0))]


def entity_figure(types: Sequence[str], hits: np.ndarray, true: np.ndarray, found: np.ndarray) -> Figure:
    """A table of scores per entity type, from counts (types,) of correct, true and predicted entities."""
    return _score_table("Entities", "type", types, hits, true, found)


def value_figures(targets: np.ndarray, predictions: np.ndarray) -> list[Figure]:
    """A scatter plot of predicted against true values, both (examples,)."""
    return [scatter("Predicted against true", "true value", "predicted value", np.stack([targets, predictions], 1))]


def choice_figures(targets: np.ndarray, scores: np.ndarray, index: np.ndarray) -> list[Figure]:
    """The confusion matrix of right and chosen choices, numbered from 0; arrays (choices,) as in `choice_metrics`."""
    begins = np.flatnonzero(np.diff(index, prepend=index[:1] - 1))
    counts = np.diff(begins, append=len(index))
    place = np.arange(len(index)) - np.repeat(begins, counts)
    if counts.max() > MAX_CLASSES:
        return []
    chosen = [int(np.argmax(scores[begin : begin + count])) for begin, count in zip(begins, counts, strict=True)]
    names = [str(number) for number in range(counts.max())]
    pairs = confusion(place[targets > 0], np.array(chosen), len(names))
    return [matrix("Choices", "right choice", "chosen", names, pairs)]


def answer_figures(
    questions: Sequence[str], golds: Sequence[Sequence[str]], given: Sequence[str], f1: np.ndarray
) -> list[Figure]:
    """A confusion matrix of whether there is an answer, if some questions have none, and a table of wrong answers.

    `golds` are the right answers of each question, `given` the predicted ones ("" for none), with scores `f1`
    (questions,).
    """
    figures: list[Figure] = []
    unanswerable = np.array([not any(gold) for gold in golds], int)
    if unanswerable.any():
        counts = confusion(unanswerable, np.array([not text for text in given], int), 2)
        figures.append(matrix("Presence of an answer", "in the data", "given", ["an answer", "none"], counts))
    wrong = np.flatnonzero(f1 < 1.0)
    drawn = wrong[_evenly(len(wrong), MAX_ROWS)]
    rows: list[list[str | float | None]] = [
        [questions[i], next(filter(None, golds[i]), None), given[i] or None, round(float(f1[i]), 6)] for i in drawn
    ]
    title = f"Answers that are not quite right: {len(drawn):,} of {len(wrong):,}, of {len(golds):,} questions"
    return [*figures, table(title, ["question", "expected", "given", "F1"], rows)] if rows else figures


def _score_table(
    title: str, what: str, labels: Sequence[str], hits: np.ndarray, true: np.ndarray, found: np.ndarray
) -> Figure:
    """Precision, recall and F1 (None for 0 / 0) of each label; of many labels only the most common."""
    order = np.argsort(-true, kind="stable")[:MAX_ROWS]
    order = np.arange(len(labels)) if len(labels) <= MAX_ROWS else order
    if len(order) < len(labels):
        title = f"{title}: the {len(order):,} most common of {len(labels):,}"
    rows: list[list[str | float | None]] = [
        [
            labels[i],
            int(true[i]),
            int(found[i]),
            _share(hits[i], found[i]),
            _share(hits[i], true[i]),
            _share(2 * hits[i], true[i] + found[i]),
        ]
        for i in order
    ]
    return table(title, [what, "true", "predicted", "precision", "recall", "F1"], rows)


def _share(part: float, whole: float) -> float | None:
    return round(float(part / whole), 6) if whole else None


def _evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _short(points: np.ndarray) -> list[list[float]]:
    """Coordinates with five digits, more than a screen shows."""
    return [[float(f"{value:.5g}") for value in point] for point in points]
