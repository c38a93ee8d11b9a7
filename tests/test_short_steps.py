"""A run's last step may hold few examples: empty rows, and micro-batches without any example, change nothing."""

import json

import numpy as np
import pytest
from conftest import TEXTS
from short_steps import ROWS, check_short_step
from zoo import make

from jaxft.data import Pack
from jaxft.tasks.classify import Classify, MultiLabel, Regress
from jaxft.tasks.contrastive_embedding import ContrastiveEmbedding, Similarity, Triplet
from jaxft.tasks.lm import CausalLM
from jaxft.tasks.mlm import MaskedLM
from jaxft.tasks.multiple_choice import MultipleChoice
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.tasks.token_classification import TokenClassification


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Rows for any task."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rng = np.random.default_rng(0)
    words = " ".join(TEXTS).split()
    with open(path, "w") as out:
        for number in range(ROWS):
            some = [str(word) for word in rng.choice(words, rng.integers(3, 9))]
            row = {"text": " ".join(some), "label": ["x", "y"][number % 2], "labels": ["x"] if number % 3 else ["y"]}
            row |= {"number": number / 4, "a": row["text"], "p": some[0], "n": some[1]}
            row |= {"tokens": some, "ner_tags": ["B-X" if word == some[0] else "O" for word in some]}
            row |= {"question": "the cat", "choices": some[:3], "answer": number % 3, "context": row["text"]}
            row |= {"answers": {"text": [some[0]], "answer_start": [0]}, "id": str(number)}
            out.write(json.dumps(row) + "\n")
    return str(path)


TASKS = {
    "classify": Classify(),
    "several labels": MultiLabel(label="labels"),
    "regress": Regress(label="number"),
    "tag": TokenClassification(),
    "answer": QuestionAnswering(stride=8),
    "choose": MultipleChoice(label="answer"),
    "contrast": ContrastiveEmbedding(text="a", pair="p"),
    "contrast, first": ContrastiveEmbedding(text="a", pair="p", negative="n", pooling="first"),
    "triplet": Triplet(text="a", pair="p", negative="n"),
    "similarity": Similarity(text="a", pair="p", label="number", most=5.0),
    "masked": MaskedLM(rate=0.4),
}


@pytest.mark.parametrize("name", TASKS)
def test_empty_rows_change_nothing(name, tiny_bert, file, one_device):
    check_short_step(tiny_bert, TASKS[name], file)


@pytest.mark.parametrize("name", ["contrast", "choose"])
def test_packed_rows(name, tiny_bert, file, one_device):
    check_short_step(tiny_bert, TASKS[name], file, batching=Pack(length=96))


def test_language_models(tiny_llama, file, one_device):
    check_short_step(tiny_llama, CausalLM(), file, "pretrained")


@pytest.mark.parametrize("family", ["mixtral", "xlnet", "gpt_oss"])
def test_mixtures_and_memories(family, tmp_path, file, one_device):
    """Experts whose balance is learned: a micro-batch without any token has none."""
    more = {} if family == "xlnet" else {"output_router_logits": True, "router_aux_loss_coef": 0.3}
    make(family, "causal-lm" if more else "sequence-classification", tmp_path, **more)
    check_short_step(tmp_path, CausalLM() if more else Classify(), file, "pretrained" if more else "backbone")
