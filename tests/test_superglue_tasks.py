"""Answers that are right or wrong together (MultiRC), and names in a gap (ReCoRD): what becomes of scores, by hand."""

import json

import numpy as np
import pytest
from conftest import rows_of

from configs.superglue import names
from jaxft.data.encoded import encode_all
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.cloze import Cloze
from jaxft.tasks.grouped_verification import GroupedVerification


@pytest.fixture
def setting(bert_tokenizer):
    return EncodingContext(bert_tokenizer, 32)


def kept_of(encoded, logits: list) -> dict[str, np.ndarray]:
    """As evaluation keeps them, in an order that is not that of the rows."""
    order = np.random.default_rng(0).permutation(len(encoded))
    targets = np.array([encoded[number]["targets"][0] for number in order])
    return {"logits": np.array(logits, np.float32)[order], "targets": targets, "index": order}


def test_questions_with_all_answers_right(setting):
    """Rows of the same question are judged together, also where they do not stand side by side."""
    questions, labels = ["a", "b", "a", "c", "b", "c"], [1, 0, 0, 1, 1, 1]
    rows = [
        {"text": "the cat", "q": question, "label": label} for question, label in zip(questions, labels, strict=True)
    ]
    task = GroupedVerification(question="{q}", labels=("0", "1"))
    encoded = encode_all(rows_of(rows), lambda some: task.encode(some, setting))
    found = [1, 0, 0, 1, 0, 1]  # a answer to b is missed
    units = task.evaluate_predictions(kept_of(encoded, [[1 - one, one] for one in found]), encoded, rows_of(rows))
    metrics = units.measure(np.arange(3))
    assert metrics["exact_match"] == pytest.approx(2 / 3) and metrics["accuracy"] == pytest.approx(5 / 6)
    assert units.files == {} and {questions[row] for row in units.rows} == {"a", "b", "c"}
    # A question counts as often as it is drawn, with all of its rows.
    which = [[questions[row] for row in units.rows].index(name) for name in "bab"]
    drawn = units.measure(np.array(which))
    assert drawn["exact_match"] == pytest.approx(1 / 3) and drawn["accuracy"] == pytest.approx(4 / 6)
    assert task.columns() == ["text", "label", "q"]


ROWS = [
    {"passage": "the cat sat", "query": "a @placeholder sat", "entities": ["dog", "cat", "dog"], "answers": ["cat"]},
    {"passage": "the dog sat", "query": "@placeholder sat", "entities": ["log"], "answers": ["The log!", "mat"]},
    {"passage": "it", "query": "@placeholder", "entities": [], "answers": ["cat"]},
    {"passage": "the mat", "query": "on @placeholder", "entities": ["good film", "bad film"], "answers": ["bad film"]},
]


def test_names_in_a_gap(setting, bert_tokenizer):
    """Each name once, in the place of the gap; the likeliest is the answer."""
    task = Cloze(id="{passage}")
    encoded = encode_all(rows_of(ROWS), lambda some: task.encode(some, setting))
    assert encoded.report.dropped == {"no names": 1} and encoded.source.tolist() == [0, 0, 1, 3, 3]
    pairs = [
        ("the cat sat", "a dog sat"),
        ("the cat sat", "a cat sat"),
        ("the dog sat", "log sat"),
        ("the mat", "on good film"),
        ("the mat", "on bad film"),
    ]
    assert [encoded[i]["tokens"].tolist() for i in range(5)] == [bert_tokenizer(*pair)["input_ids"] for pair in pairs]
    assert [int(encoded[i]["targets"][0]) for i in range(5)] == [0, 1, 0, 0, 1]
    # Of the first row the right name is the likelier one although both are said to be wrong; of the last the other.
    logits = [[3.0, 0.0], [2.0, 1.0], [5.0, 0.0], [0.0, 0.5], [0.0, 0.25]]
    kept = kept_of(encoded, logits)
    units = task.evaluate_predictions(kept, encoded, rows_of(ROWS))
    metrics, files = units.measure(np.arange(3)), units.files
    assert units.rows.tolist() == [0, 1, 3]
    assert files == {".json": {"the cat sat": "cat", "the dog sat": "log", "the mat": "good film"}}
    right = [number == target for number, target in zip(np.argmax(logits, 1), [0, 1, 0, 0, 1], strict=True)]
    accuracy = pytest.approx(np.mean(right))
    assert task.compute_metrics({}, kept) == {"accuracy": accuracy}
    words = {"exact_match": pytest.approx(2 / 3), "f1": pytest.approx((1 + 1 + 0.5) / 3)}
    assert metrics == words | {"accuracy": accuracy}
    last = {"exact_match": 0.0, "f1": 0.5, "accuracy": pytest.approx(np.mean(right[3:]))}
    assert units.measure(np.array([2, 2])) == last


def test_what_has_no_gap(setting):
    task = Cloze()
    with pytest.raises(UserError, match="column 'query' holds 'who sat', without the gap '@placeholder'"):
        task.encode([ROWS[0] | {"query": "who sat"}], setting)
    with pytest.raises(UserError, match="column 'entities' holds 'cat', expected a list of texts"):
        task.encode([ROWS[0] | {"entities": "cat"}], setting)
    assert task.encode([ROWS[0] | {"answers": None}], setting) == ["no answers"]


class Told:
    """A model that says of each text what it was told to."""

    def __init__(self, answers: dict[str, dict]):
        self.answers = answers

    def predict(self, texts):
        return [self.answers[text] for _, text in texts]


def test_the_servers_lines_of_names():
    """The name that is right with the largest probability, or that is wrong with the smallest."""
    said = {"dog": ("wrong", 0.9), "cat": ("wrong", 0.6), "log": ("right", 0.7), "mat": ("right", 0.8)}
    model = Told({f"on a {name}": {"label": label, "score": score} for name, (label, score) in said.items()})
    lists = ["dog", "cat"], ["cat", "log", "dog"], ["log", "mat"]
    rows = [
        {"passage": "it", "query": "on a @placeholder", "entities": some, "idx": {"query": 5 + number}}
        for number, some in enumerate(lists)
    ]
    assert [json.loads(line) for line in names(model, rows)] == [
        {"idx": 5, "label": "cat"},
        {"idx": 6, "label": "log"},
        {"idx": 7, "label": "mat"},
    ]
