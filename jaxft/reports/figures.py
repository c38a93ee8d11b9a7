"""What an evaluation shows besides its numbers: figures, as JSON values that the report draws.

A figure has `figure`, its kind, and `title`; what else it holds says the function that makes the kind: `matrix`,
`table`, `scatter`. It does not grow with the evaluation set.
"""

import numpy as np

from jaxft.metrics import confusion

MATRIX = 30  # classes; of more no cell could be read
ROWS = 100  # of a table
POINTS = 1000  # of a scatter plot


def matrix(title: str, down: str, across: str, names: list[str], counts: np.ndarray) -> dict:
    """Counts (names, names); `down` says what the rows are, `across` what the columns are."""
    return {
        "figure": "matrix",
        "title": title,
        "down": down,
        "across": across,
        "names": list(names),
        "counts": counts.tolist(),
    }


def table(title: str, columns: list[str], rows: list[list]) -> dict:
    """A row has a text or a number for each column; None where there is none. The first column names the row."""
    return {"figure": "table", "title": title, "columns": columns, "rows": rows}


def scatter(title: str, x: str, y: str, points: np.ndarray) -> dict:
    """Points (n, 2) on equal axes with their diagonal. Of many, evenly spaced ones are drawn; the title says so."""
    finite = points[np.isfinite(points).all(1)]
    drawn = finite[_evenly(len(finite), POINTS)]
    if len(drawn) < len(points):
        title = f"{title}: {len(drawn):,} of {len(points):,} examples"
    return {"figure": "scatter", "title": title, "x": x, "y": y, "points": _short(drawn)}


def class_figures(targets: np.ndarray, predictions: np.ndarray, labels: list[str]) -> list[dict]:
    """Confusion matrix, or with many classes the commonest mistakes, and scores by class.

    `targets` and `predictions` are class numbers of the whole evaluation set, shape (examples,).
    """
    counts = confusion(targets, predictions, len(labels))
    scores = _score_table("Classes", "class", labels, np.diag(counts), counts.sum(1), counts.sum(0))
    if len(labels) <= MATRIX:
        return [matrix("Confusion matrix", "true class", "predicted class", labels, counts), scores]
    wrong = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:ROWS]
    pairs = [(*divmod(int(place), len(labels)), int(wrong.flat[place])) for place in order if wrong.flat[place]]
    rows = [[labels[true], labels[found], count, _share(count, counts[true].sum())] for true, found, count in pairs]
    columns = ["true class", "predicted class", "examples", "share of the class"]
    return [table("Commonest mistakes", columns, rows), scores]


def label_figures(targets: np.ndarray, predictions: np.ndarray, labels: list[str]) -> list[dict]:
    """Scores by label; 0/1 arrays (examples, labels)."""
    return [_score_table("Labels", "label", labels, (targets & predictions).sum(0), targets.sum(0), predictions.sum(0))]


def entity_figure(types: list[str], hits: np.ndarray, true: np.ndarray, found: np.ndarray) -> dict:
    """Scores by entity type, from how many are in both, in the truth, and found; all (types,)."""
    return _score_table("Entities", "type", types, hits, true, found)


def value_figures(targets: np.ndarray, predictions: np.ndarray) -> list[dict]:
    """Predicted against true numbers, both (examples,)."""
    return [scatter("Predicted against true", "true value", "predicted value", np.stack([targets, predictions], 1))]


def choice_figures(targets: np.ndarray, scores: np.ndarray, index: np.ndarray) -> list[dict]:
    """Which choice was right and which was chosen, by number from 0; arrays (choices,) as `choice_metrics` has them."""
    begins = np.flatnonzero(np.diff(index, prepend=index[:1] - 1))
    counts = np.diff(begins, append=len(index))
    place = np.arange(len(index)) - np.repeat(begins, counts)
    if counts.max() > MATRIX:
        return []
    chosen = [int(np.argmax(scores[begin : begin + count])) for begin, count in zip(begins, counts, strict=True)]
    names = [str(number) for number in range(counts.max())]
    pairs = confusion(place[targets > 0], np.array(chosen), len(names))
    return [matrix("Choices", "right choice", "chosen", names, pairs)]


def answer_figures(questions: list[str], golds: list[list[str]], given: list[str], f1: np.ndarray) -> list[dict]:
    """Whether there is an answer and whether one was given, where some have none; and answers that are not right.

    `f1` (questions,) are the scores of the texts `given`, "" for none.
    """
    figures, silent = [], np.array([not any(gold) for gold in golds], int)
    if silent.any():
        counts = confusion(silent, np.array([not text for text in given], int), 2)
        figures.append(matrix("Presence of an answer", "in the data", "given", ["an answer", "none"], counts))
    wrong = np.flatnonzero(f1 < 1.0)
    drawn = wrong[_evenly(len(wrong), ROWS)]
    rows = [[questions[i], next(filter(None, golds[i]), None), given[i] or None, round(float(f1[i]), 6)] for i in drawn]
    title = f"Answers that are not quite right: {len(drawn):,} of {len(wrong):,}, of {len(golds):,} questions"
    return [*figures, table(title, ["question", "expected", "given", "F1"], rows)] if rows else figures


def _score_table(title, what, labels, hits, true, found) -> dict:
    """Precision, recall and F1; None where their divisor is 0. Of many labels the commonest."""
    order = np.argsort(-true, kind="stable")[:ROWS]
    order = np.arange(len(labels)) if len(labels) <= ROWS else order
    if len(order) < len(labels):
        title = f"{title}: the {len(order):,} commonest of {len(labels):,}"
    rows = [
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


def _share(part, whole) -> float | None:
    return round(float(part / whole), 6) if whole else None


def _evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _short(points: np.ndarray) -> list[list[float]]:
    """With five digits, more than a screen shows."""
    return [[float(f"{value:.5g}") for value in point] for point in points]
