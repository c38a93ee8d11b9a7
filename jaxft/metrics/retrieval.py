"""Metrics of retrieval: the ranks of relevant documents."""

import numpy as np

from jaxft.metrics.probabilities import average_precision


def retrieval_metrics(scores: np.ndarray, relevance: np.ndarray, depths: tuple[int, ...] = (1, 10)) -> dict[str, float]:
    """recall@k and ndcg@k for each depth k, mrr, map; means over the queries that have a relevant document.

    Both arrays are (queries, documents). A document is relevant if its grade is above 0; the grade is its gain.
    Documents of equal score may have any order: all metrics but `map` are means over these orders. {} if no query has
    a relevant document.
    """
    asked = relevance.max(1, initial=0) > 0
    measured = [_of_query(*query, depths) for query in zip(scores[asked], relevance[asked], strict=True)]
    return {name: float(np.mean([one[name] for one in measured])) for name in measured[0]} if measured else {}


def _of_query(scores: np.ndarray, grades: np.ndarray, depths: tuple[int, ...]) -> dict[str, float]:
    relevant = grades > 0
    found: dict[str, float] = {}
    shares, gains = expected(scores, relevant), expected(scores, grades)
    for depth in depths:
        found[f"recall@{depth}"] = shares[:depth].sum() / relevant.sum()
        found[f"ndcg@{depth}"] = discounted(gains, depth) / discounted(np.sort(grades)[::-1], depth)
    return found | {"mrr": reciprocal_rank(scores, relevant), "map": average_precision(relevant, scores)}


def expected(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The expected value (documents,) at each rank, best first, of documents with these scores and values.

    Documents of equal score share their ranks (McSherry and Najork 2008).
    """
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(group, values) / sizes, sizes)


def discounted(gains: np.ndarray, depth: int) -> float:
    """Discounted cumulative gain of the first `depth` ranks (Järvelin and Kekäläinen 2002), with logarithm base 2."""
    gains = gains[:depth]
    return float(np.sum(gains / np.log2(np.arange(len(gains)) + 2)))


def reciprocal_rank(scores: np.ndarray, relevant: np.ndarray) -> float:
    """The expected 1 / rank of the first relevant document; all orders of documents of equal score are equally "
    "likely."""
    best = scores[relevant].max()
    above, tied = int((scores > best).sum()), scores == best
    size, hits = int(tied.sum()), int((tied & relevant).sum())
    passed = np.arange(size - hits + 1)  # irrelevant documents of the same score that are ranked before it
    reached = np.cumprod(np.append(1.0, (size - hits - passed[:-1]) / (size - passed[:-1])))
    return float(np.sum(reached * hits / (size - passed) / (above + passed + 1)))
