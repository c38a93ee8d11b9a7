"""The comparison of whole runs with PyTorch's: from the same first weights, without dropout, both are the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import bert_config, save_perturbed
from quality import by_torch_alone, compare, shuffled
from transformers import BertForQuestionAnswering, BertModel

from jaxft.config import Config, Eval, Mesh
from jaxft.data import Data, Pack
from jaxft.tasks.classify import Classify
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.tasks.token_classification import TokenClassification

WORDS = ["unhappy", "sailors", "sat", "on", "the", "harbour", "dog"]


def rows_of(task) -> list[dict]:
    rng = np.random.default_rng(0)
    texts = [list(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(24)]
    if isinstance(task, Classify):
        return [{"text": " ".join(text), "label": "yes" if "dog" in text else "no"} for text in texts]
    if isinstance(task, TokenClassification):
        return [{"tokens": text, "ner_tags": ["B-X" if word == "dog" else "O" for word in text]} for text in texts]
    # All as long: over padding, too, transformers' loss takes the softmax of starts and ends.
    contexts = [" ".join(rng.permutation(["the", "cat", "sat", "on", "mat", "dog"])) for _ in texts]
    rows = [{"question": "the dog", "context": context} for context in contexts]
    return [row | {"answers": {"text": ["dog"], "answer_start": [row["context"].index("dog")]}} for row in rows]


@pytest.fixture
def run(task, bert_tokenizer, tmp_path, one_device):
    """Of a model without the head that the task needs, but for questions: new heads are the same on both sides."""
    made = BertForQuestionAnswering if isinstance(task, QuestionAnswering) else BertModel
    model = save_perturbed(made(bert_config(bert_tokenizer)), bert_tokenizer, tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(task)))
    data = Data(path=str(tmp_path / "rows.jsonl"))
    return Config(
        model=str(model),
        task=task,
        data=data,
        evals={"test": Eval(data=data)},
        batching=Pack(length=48),
        lr=1e-3,
        batch=8,
        epochs=2,
        max_len=32,
        dropout=0.0,
        dtype="float32",
        mesh=Mesh(data=1),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [TokenClassification(labels=("B-X", "I-X", "O")), QuestionAnswering(stride=4), Classify()],
    ids=["tags", "answers", "classes"],
)
def test_both_sides_are_the_same_run(run):
    found = compare(run, 1, ["jaxft", "pytorch"])
    ours, theirs = ({key: mean for key, (mean, _) in found[side].items()} for side in ("jaxft", "pytorch"))
    assert ours == pytest.approx(theirs, abs=1e-3) and {"test/f1", "test/loss"} & ours.keys()


@pytest.mark.slow
@pytest.mark.parametrize("task", [Classify()])
def test_pytorch_alone_learns_too(run):
    """It has an order and a head of its own, so only what both sides can learn is compared: everything."""
    longer = replace(run, epochs=60.0, lr=3e-3)
    assert by_torch_alone(longer)["test"]["accuracy"] == 1.0
    assert compare(longer, 1, ["jaxft"])["jaxft"]["test/accuracy"][0] == 1.0


def test_an_epoch_of_pytorch_alone_has_each_example_once():
    batches = shuffled(list(range(10)), list, 4)
    first, second = ([number for _ in range(3) for number in next(batches)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
