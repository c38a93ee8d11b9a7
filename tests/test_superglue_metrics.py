"""MultiRC's and ReCoRD's own metrics: scikit-learn's F1, and the steps of their published scripts."""

import re
import string
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import f1_score

from jaxft.metrics.superglue import multirc_metrics, record_scores

ULP = 1e-12


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.6, 1.0])
def test_multirc(rate):
    rng = np.random.default_rng(int(10 * rate))
    questions = [("абзац", int(number)) for number in rng.integers(0, 12, 60)]  # options of a question anywhere
    gold, answer = (rng.random((2, 60)) < rate).astype(int)
    answer[:40] = gold[:40]
    found = multirc_metrics(questions, gold.tolist(), answer.tolist())
    assert found["f1_a"] == pytest.approx(f1_score(gold, answer, zero_division=0), abs=ULP)
    right = [
        all(gold[i] == answer[i] for i, one in enumerate(questions) if one == question) for question in set(questions)
    ]
    assert found["exact_match"] == pytest.approx(sum(right) / len(right), abs=ULP)


def test_multirc_of_nothing():
    found = multirc_metrics([], [], [])
    assert found["f1_a"] == 0.0 and np.isnan(found["exact_match"])


def normal(text):
    """The steps of SQuAD 1.1's script, which ReCoRD's has too."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def word_f1(text, gold):
    text, gold = normal(text).split(), normal(gold).split()
    same = sum((Counter(text) & Counter(gold)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(text), same / len(gold)
    return 2 * precision * recall / (precision + recall)


NAMES = [
    "U.S.",
    "the United States",
    "Barack  Obama",
    "Obama",
    "an A.",
    "The",
    "",
    "Łódź",
    "New York, New York",
    "york",
]


@pytest.mark.parametrize("seed", range(3))
def test_record(seed):
    rng = np.random.default_rng(seed)
    texts = [str(rng.choice(NAMES)) for _ in range(40)]
    golds = [[str(name) for name in rng.choice(NAMES, rng.integers(1, 4))] for _ in texts]
    found = {name: float(np.mean(values)) for name, values in record_scores(texts, golds).items()}
    pairs = list(zip(texts, golds, strict=True))
    best = [max(word_f1(text, gold) for gold in names) for text, names in pairs]
    same = [max(normal(text) == normal(gold) for gold in names) for text, names in pairs]
    assert found == pytest.approx({"f1": np.mean(best), "exact_match": np.mean(same)}, abs=ULP)


def test_record_known():
    scores = record_scores(["the Obama", "Obama", "x"], [["Barack Obama", "OBAMA!"], ["Barack Obama"], []])
    assert scores["f1"].tolist() == pytest.approx([1, 2 / 3, 0]) and scores["exact_match"].tolist() == [1, 0, 0]
    assert all(values.shape == (0,) for values in record_scores([], []).values())
