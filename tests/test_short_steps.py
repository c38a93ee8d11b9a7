"""A run's last step may hold few examples: empty rows, and micro-batches without any example, change nothing."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from conftest import TEXTS
from zoo import make

from jaxft.config import Config, Mesh
from jaxft.data import Data, Pack, Pad
from jaxft.tasks.classify import Classify, MultiLabel, Regress
from jaxft.tasks.contrastive_embedding import ContrastiveEmbedding, Similarity, Triplet
from jaxft.tasks.lm import CausalLM
from jaxft.tasks.mlm import MaskedLM
from jaxft.tasks.multiple_choice import MultipleChoice
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.tasks.token_classification import TokenClassification
from jaxft.training.run import train_batches
from jaxft.training.setup import build
from jaxft.training.step import batch_gradient

ROWS = 9  # of which the only step has two


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


def check_short_step(model, task, file, init="backbone", **more):
    """The only step's loss and gradient, of arrays that are mostly empty, beside those of its filled rows alone."""
    cfg = {"lr": 1e-3, "batch": 8, "epochs": 2 / ROWS, "max_len": 32, "dropout": 0.0, "dtype": "float32"}
    cfg |= {"mesh": Mesh(data=1), "init": init, "batching": Pad(buckets=(32,))} | more
    made = build(Config(model=str(model), task=task, data=Data(path=file), **cfg))
    batches = train_batches(made)
    examples = len(batches.examples(0))
    assert len(batches) == 1 and 2 <= examples <= 4
    batch = batches[0]
    batch.pop("index")
    filled = (batch["segments"] > 0).any(1)
    assert 0 < filled.sum() <= examples and (isinstance(made.cfg.batching, Pack) or len(filled) == 8)
    trained, frozen, _ = made.load()
    batch = jax.device_get(made.task.prepare_batch(batch))  # which sees the whole batch

    def gradient(batch, pieces):
        fixed = {"loss": made.loss, "micro_batches": pieces, "seed": 0}
        return jax.device_get(jax.jit(partial(batch_gradient, **fixed))(trained, 0, frozen, batch))

    if isinstance(task, ContrastiveEmbedding) or isinstance(made.cfg.batching, Pack):  # whose examples meet
        wanted, pieces = gradient({key: values[filled] for key, values in batch.items()}, 1), 1
    else:
        rows = [{key: values[row : row + 1] for key, values in batch.items()} for row in np.flatnonzero(filled)]
        wanted, pieces = jax.tree.map(lambda *each: sum(each), *(gradient(row, 1) for row in rows)), 4
    found = gradient(batch, pieces)
    assert np.isfinite(wanted.sums["loss"].total) and wanted.sums["loss"].count > 0
    assert found.sums["loss"].count == wanted.sums["loss"].count
    assert found.sums["loss"].total == pytest.approx(wanted.sums["loss"].total, rel=1e-5)
    for path, array in wanted.values.items():
        np.testing.assert_allclose(found.values[path], array, rtol=0, atol=1e-5 * max(1, np.abs(array).max()))


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
