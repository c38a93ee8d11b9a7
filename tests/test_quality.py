"""The comparison of whole runs with PyTorch's: without dropout and with the same head both sides are the same."""

import json

import numpy as np
import pytest
from conftest import bert_config, save_perturbed
from quality import compare
from transformers import BertForQuestionAnswering, BertForTokenClassification

from jaxft.config import Config, Eval, Mesh
from jaxft.data import Data, Pack
from jaxft.tasks.answer import Answer
from jaxft.tasks.tag import Tag

WORDS = ["unhappy", "sailors", "sat", "on", "the", "harbour", "dog"]


def rows_of(task) -> list[dict]:
    rng = np.random.default_rng(0)
    texts = [list(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(24)]
    if isinstance(task, Tag):
        return [{"tokens": text, "ner_tags": ["B-X" if word == "dog" else "O" for word in text]} for text in texts]
    # All as long: over padding, too, transformers' loss takes the softmax of starts and ends.
    contexts = [" ".join(rng.permutation(["the", "cat", "sat", "on", "mat", "dog"])) for _ in texts]
    rows = [{"question": "the dog", "context": context} for context in contexts]
    return [row | {"answers": {"text": ["dog"], "answer_start": [row["context"].index("dog")]}} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("task", [Tag(labels=("B-X", "I-X", "O")), Answer(stride=4)], ids=["tags", "answers"])
def test_both_sides_are_the_same_run(task, bert_tokenizer, tmp_path, one_device):
    tags = {"id2label": dict(enumerate(["B-X", "I-X", "O"])), "label2id": {"B-X": 0, "I-X": 1, "O": 2}}
    made = BertForTokenClassification(bert_config(bert_tokenizer, **tags)) if isinstance(task, Tag) else None
    made = made or BertForQuestionAnswering(bert_config(bert_tokenizer))
    model = save_perturbed(made, bert_tokenizer, tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(task)))
    data = Data(path=str(tmp_path / "rows.jsonl"))
    cfg = Config(
        model=str(model), task=task, data=data, evals={"test": Eval(data=data)}, rows=Pack(length=48), lr=1e-3, batch=8,
        epochs=2, max_len=32, dropout=0.0, dtype="float32", mesh=Mesh(data=1),
    )  # fmt: skip
    found = compare(cfg, 1, ["jaxft", "pytorch"])
    ours, theirs = ({key: mean for key, (mean, _) in found[side].items()} for side in ("jaxft", "pytorch"))
    assert ours == pytest.approx(theirs, abs=1e-3) and "test/f1" in ours
