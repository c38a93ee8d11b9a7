"""Metrics of search: for each query, how far up the documents stand that it should find."""

import numpy as np

from jaxft.metrics.probabilities import average_precision


def retrieval_metrics(scores: np.ndarray, relevance: np.ndarray, depths: tuple[int, ...] = (1, 10)) -> dict[str, float]:
    """recall@k and ndcg@k for each depth k, mrr, map; means over the queries for which some document is relevant.

    Both arrays are (queries, documents). A document is relevant by a grade above 0, which is also its gain. Documents
    of equal score may stand in any order: all metrics but `map` are means over these orders. Without any such query,
    there are no metrics.
    """
    asked = relevance.max(1, initial=0) > 0
    measured = [_of_query(*query, depths) for query in zip(scores[asked], relevance[asked], strict=True)]
    return {name: float(np.mean([one[name] for one in measured])) for name in measured[0]} if measured else {}


def _of_query(scores: np.ndarray, grades: np.ndarray, depths) -> dict[str, float]:
    relevant, found = grades > 0, {}
    shares, gains = expected(scores, relevant), expected(scores, grades)
    for depth in depths:
        found[f"recall@{depth}"] = shares[:depth].sum() / relevant.sum()
        found[f"ndcg@{depth}"] = discounted(gains, depth) / discounted(np.sort(grades)[::-1], depth)
    return found | {"mrr": reciprocal_rank(scores, relevant), "map": average_precision(relevant, scores)}


def expected(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(documents,): what to expect at each place, the best first, of documents that have the `values`.

    Documents of equal score share their places (McSherry and Najork 2008).
    """
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(group, values) / sizes, sizes)


def discounted(gains: np.ndarray, depth: int) -> float:
    """Discounted cumulative gain of the first `depth` places (Järvelin and Kekäläinen 2002), the logarithm being of
    base 2: the second place counts 1 / log2(3)."""
    gains = gains[:depth]
    return float(np.sum(gains / np.log2(np.arange(len(gains)) + 2)))


def reciprocal_rank(scores: np.ndarray, relevant: np.ndarray) -> float:
    """1 / the place of the first relevant document; of documents with its score each order is as likely."""
    best = scores[relevant].max()
    above, tied = int((scores > best).sum()), scores == best
    size, hits = int(tied.sum()), int((tied & relevant).sum())
    passed = np.arange(size - hits + 1)  # irrelevant ones of the same score that come before
    reached = np.cumprod(np.append(1.0, (size - hits - passed[:-1]) / (size - passed[:-1])))
    return float(np.sum(reached * hits / (size - passed) / (above + passed + 1)))
