"""Metrics of two tasks of SuperGLUE (Wang et al. 2019): MultiRC and ReCoRD."""

from collections import Counter
from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from jaxft.metrics.classes import precision_recall_f1
from jaxft.metrics.declared import higher
from jaxft.text.spans import normalised


def multirc_metrics(questions: Iterable[Hashable], targets: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """f1_a and exact_match of MultiRC (Khashabi et al. 2018).

    Each list has an item for each answer option: its question (any key), and 1 for a right answer or 0. `f1_a` is F1
    over all options, `exact_match` the share of questions with all options predicted right.
    """
    true, found = np.array(targets, int), np.array(predictions, int)
    right: dict[Hashable, bool] = {}
    for question, same in zip(questions, (true == found).tolist(), strict=True):
        right[question] = right.get(question, True) and same
    scores = precision_recall_f1((true & found).sum(), true.sum(), found.sum())
    return {"f1_a": float(scores["f1"]), "exact_match": float(np.mean([*right.values()])) if right else float("nan")}


RECORD = higher("f1", "exact_match")


def record_scores(texts: list[str], golds: list[list[str]]) -> dict[str, np.ndarray]:
    """f1 of words and exact_match of ReCoRD (Zhang et al. 2018), from 0 to 1, each float64 (texts,).

    `golds` are the names that are right for each text; the one that fits best counts. Texts are normalised as SQuAD's
    are, but nothing is no match for nothing in f1, as in ReCoRD's own script.
    """
    pairs = [
        (normalised(text).split(), [normalised(gold).split() for gold in names])
        for text, names in zip(texts, golds, strict=True)
    ]
    return {
        "f1": np.array([max((_f1(words, gold) for gold in names), default=0.0) for words, names in pairs], float),
        "exact_match": np.array([words in names for words, names in pairs], float),
    }


def _f1(words: list[str], gold: list[str]) -> float:
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / max(len(words) + len(gold), 1)
