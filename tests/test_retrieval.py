"""Metrics of search: scikit-learn's numbers, and every order of documents that score alike."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score, ndcg_score

from jaxft.metrics.retrieval import reciprocal_rank, retrieval_metrics

ULP = 1e-12


def drawn(queries, documents, grades, levels, seed=0):
    """Scores and grades, at least one relevant document a query."""
    rng = np.random.default_rng(seed)
    relevance = rng.integers(0, grades + 1, (queries, documents)) * (rng.random((queries, documents)) < 0.4)
    relevance[np.arange(queries), rng.integers(0, documents, queries)] = grades
    return rng.integers(0, levels, (queries, documents)) / levels, relevance


@pytest.mark.parametrize("documents", [2, 7, 60])
@pytest.mark.parametrize("grades, levels", [(1, 10**6), (3, 10**6), (1, 4), (3, 4)])
def test_against_scikit_learn(documents, grades, levels):
    scores, relevance = drawn(9, documents, grades, levels)
    found = retrieval_metrics(scores, relevance, (1, 3, 100))
    for depth in (1, 3, 100):
        assert found[f"ndcg@{depth}"] == pytest.approx(ndcg_score(relevance, scores, k=depth), abs=ULP)
    assert found["map"] == pytest.approx(label_ranking_average_precision_score(relevance > 0, scores), abs=ULP)
    each = [average_precision_score(truth > 0, row) for truth, row in zip(relevance, scores, strict=True)]
    assert found["map"] == pytest.approx(np.mean(each), abs=ULP)


def one_order(ranked: list[int], depth: int) -> dict[str, float]:
    """Of one query whose documents, the best first, have these grades: by the definitions."""
    relevant = [place for place, grade in enumerate(ranked, 1) if grade > 0]

    def dcg(grades):
        return sum(grade / np.log2(place + 1) for place, grade in enumerate(grades[:depth], 1))

    return {
        f"recall@{depth}": sum(place <= depth for place in relevant) / len(relevant),
        f"ndcg@{depth}": dcg(ranked) / dcg(sorted(ranked, reverse=True)),
        "mrr": 1 / relevant[0],
        "map": sum(number / place for number, place in enumerate(relevant, 1)) / len(relevant),
    }


@pytest.mark.parametrize("depth", [1, 2, 10])
def test_by_the_definitions(depth):
    scores, relevance = drawn(20, 8, 2, 10**9)
    each = [one_order(truth[np.argsort(-row)].tolist(), depth) for truth, row in zip(relevance, scores, strict=True)]
    wanted = {name: np.mean([one[name] for one in each]) for name in each[0]}
    assert retrieval_metrics(scores, relevance, (depth,)) == pytest.approx(wanted, abs=ULP)


@pytest.mark.parametrize("seed", range(6))
def test_equal_scores_are_every_order(seed):
    """Means over all orders in which the documents may come, one after another."""
    scores, relevance = drawn(1, 6, 2, 2, seed)
    orders = [
        [relevance[0, one] for one in order]
        for order in itertools.permutations(range(6))
        if list(scores[0, list(order)]) == sorted(scores[0], reverse=True)
    ]
    for depth in (1, 2, 4):
        each = [one_order(order, depth) for order in orders]
        found = retrieval_metrics(scores, relevance, (depth,))
        for name in (f"recall@{depth}", f"ndcg@{depth}", "mrr"):
            assert found[name] == pytest.approx(np.mean([one[name] for one in each]), abs=ULP)


def test_equal_scores_do_not_flatter():
    """A model that tells nothing apart does not find its document at the top."""
    assert reciprocal_rank(np.zeros(4), np.array([1, 0, 0, 0]) > 0) == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4]))
    assert retrieval_metrics(np.zeros((1, 4)), np.array([[1, 0, 0, 0]]), (1,))["recall@1"] == 0.25
    assert retrieval_metrics(np.zeros((1, 4)), np.ones((1, 4)), (1,))["mrr"] == 1.0


def test_queries_that_nothing_answers_are_left_out():
    scores, relevance = drawn(5, 6, 1, 100)
    more = np.append(relevance, np.zeros((2, 6), int), 0), np.append(scores, np.ones((2, 6)), 0)
    assert retrieval_metrics(more[1], more[0]) == retrieval_metrics(scores, relevance)
    assert retrieval_metrics(np.ones((3, 2)), np.zeros((3, 2))) == {}
    assert retrieval_metrics(np.ones((0, 2)), np.zeros((0, 2))) == {}
    assert retrieval_metrics(np.ones((3, 0)), np.zeros((3, 0))) == {}
