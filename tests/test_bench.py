"""Measurements: both sides do the same work, and a ratio says who is better."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import write_rows

from jaxft.benchmark import measurement, trainer
from jaxft.benchmark.job import read_examples, read_job
from jaxft.benchmark.rounds import bench, prepare, summary
from jaxft.benchmark.table import table
from jaxft.config import Config, Eval
from jaxft.data import Data, Pad
from jaxft.optim.lion import Lion
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.tasks.mlm import MaskedLM
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.tasks.token_classification import TokenClassification
from jaxft.tune.partial import Partial


@pytest.fixture
def cfg(tiny_bert, tmp_path, one_device):
    data = Data(path=write_rows(tmp_path / "rows.csv", 23))
    return Config(
        model=str(tiny_bert),
        task=Classify(),
        data=data,
        evals={"val": Eval(data=data)},
        lr=1e-3,
        batch=4,
        steps=60,
        max_len=32,
        batching=Pad(buckets=(8, 32)),
        log_every=2,
    )


def test_both_sides_do_the_same_work(cfg, tmp_path):
    prepare(cfg, "fixed", 2, tmp_path, compared=True)
    job = read_job(tmp_path)
    results = {
        row: (measurement.MEASURES[row](tmp_path), trainer.MEASURES[row](job, tmp_path))
        for row in ("train", "evaluate")
    }
    for one, other in results.values():
        for numbers in (one, other):
            assert 0 < numbers["useful_share"] <= 1 and numbers["peak_bytes"] > 50e6
            assert numbers["useful_tokens_per_second"] < numbers["padded_tokens_per_second"]
    one, other = results["train"]
    assert len(one["steps"]) == len(other["steps"]) == 2
    assert {"data_seconds", "log_seconds", "save_seconds", "write_seconds", "compile_seconds"} <= one.keys()
    # Of the Trainer every row is as long as max_len says, and there are 4 of them a step.
    padded = other["padded_tokens_per_second"] * sum(other["steps"])
    assert padded == pytest.approx(2 * 4 * 32)
    useful = sum(len(example["input_ids"]) for example in read_examples(tmp_path / "evaluate.npz"))
    for numbers in results["evaluate"]:
        assert numbers["useful_tokens_per_second"] * numbers["seconds"] == pytest.approx(useful)


def test_the_first_step_of_a_shape_counts_as_compiling(monkeypatch):
    """Of steps that take 100 s the first time and 1 s later, by a clock of their own."""
    now, seen, lengths = [0.0], set(), itertools.cycle((8, 8, 16))

    def step(state, frozen, batch):
        now[0] += 1.0 if batch["tokens"].shape in seen else 100.0
        seen.add(batch["tokens"].shape)
        return state, SimpleNamespace(tokens=np.int32(5))

    monkeypatch.setattr(measurement, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(measurement.jax, "block_until_ready", lambda x: x)
    run = SimpleNamespace(
        training=SimpleNamespace(step=lambda: step, compile=None),
        pace=SimpleNamespace(before=lambda *_: None),
        state=None,
        frozen=None,
        on_device=[],
        done=0,
        next_batch=lambda: {"tokens": np.zeros((4, next(lengths)))},
    )
    numbers = measurement.timed_steps(run, 7)
    assert numbers["steps"] == [1.0] * 7 and numbers["compile_seconds"] == 200.0
    assert numbers["useful_tokens_per_second"] == 5.0


def test_the_trainer_trains_what_jaxft_trains(cfg, tmp_path):
    cfg = dataclasses.replace(cfg, tune=Partial(last_layers=1), dropout=0.25, init="random")
    prepare(cfg, "dynamic", 2, tmp_path, compared=True)
    model = trainer.model_of(read_job(tmp_path))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("bert.encoder.layer.2.", "bert.pooler.", "classifier."))
    }
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25} and model.config.num_labels == 3


def test_masked_words_for_the_trainer(cfg, tmp_path):
    cfg = dataclasses.replace(cfg, task=MaskedLM(rate=0.3), evals={})
    prepare(cfg, "dynamic", 2, tmp_path, compared=True)
    job = read_job(tmp_path)
    collator = trainer.Collator(job)
    batch = collator(read_examples(tmp_path / "train.npz"))
    assert 0.1 < float((batch["labels"] != -100).float().mean()) < 0.4
    assert collator.made == [(int(batch["attention_mask"].sum()), batch["input_ids"].numel())]


def prepared(cfg, task, rows, tmp_path) -> tuple[dict, object]:
    """The Trainer's batch of all rows, in their order, and its model."""
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = dataclasses.replace(cfg, task=task, data=Data(path=str(file)), evals={}, init="backbone")
    prepare(cfg, "dynamic", 2, tmp_path, compared=True)
    job = read_job(tmp_path)
    return trainer.Collator(job)(read_examples(tmp_path / "train.npz")), trainer.model_of(job)


def test_tags_for_the_trainer(cfg, tmp_path, bert_tokenizer):
    rows = [
        {"tokens": ["unhappy", "sailors", "sat"], "ner_tags": ["B-X", "O", "B-X"]},
        {"tokens": ["it"], "ner_tags": ["O"]},
    ]
    batch, model = prepared(cfg, TokenClassification(), rows, tmp_path)
    numbers = {label: number for number, label in enumerate(["B-X", "I-X", "O"])}
    for labels, row in zip(batch["labels"].tolist(), rows, strict=True):
        words = bert_tokenizer(row["tokens"], is_split_into_words=True).word_ids()
        first = [word is not None and word != before for word, before in zip(words, [None, *words], strict=False)]
        wanted = [numbers[row["ner_tags"][word]] if one else -100 for word, one in zip(words, first, strict=True)]
        assert labels[: len(words)] == wanted and set(labels[len(words) :]) <= {-100}
    assert model.config.num_labels == 3 and torch.isfinite(model(**batch).loss)


def test_answers_for_the_trainer(cfg, tmp_path, bert_tokenizer):
    context = "the cat sat on the mat"
    answers = [{"text": ["the mat"], "answer_start": [15]}, {"text": [], "answer_start": []}]
    rows = [{"question": "the dog", "context": context, "answers": some} for some in answers * 60]
    rows.append(rows[0] | {"answers": {"text": ["the dog"], "answer_start": [0]}})  # not there
    batch, model = prepared(cfg, QuestionAnswering(stride=4), rows, tmp_path)
    starts, ends = batch["start_positions"].tolist(), batch["end_positions"].tolist()
    assert bert_tokenizer.decode(batch["input_ids"][0, starts[0] : ends[0] + 1]) == "the mat"
    assert starts[1::2] == ends[1::2] == [0] * 60 and starts[-1] > 10**5
    logits, some = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]), slice(0, 120)
    del batch["start_positions"], batch["end_positions"]
    sides = zip((logits.start_logits, logits.end_logits), (starts, ends), strict=True)
    wanted = [torch.nn.functional.cross_entropy(side[some], torch.tensor(at[some])) for side, at in sides]
    given = {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}
    loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **given).loss
    assert loss.item() == pytest.approx(sum(wanted).item() / 2, rel=1e-6)  # the misplaced answer teaches nothing


def test_what_cannot_be_compared_is_said(cfg):
    with pytest.raises(UserError, match="--rounds is 0") as caught:
        bench(cfg, None, "dynamic", ("train",), 0, -1)
    assert "--steps is -1" in str(caught.value)
    with pytest.raises(UserError, match="set config.optim"):
        bench(dataclasses.replace(cfg, optim=Lion()), "transformers", "dynamic", ("train",), 1, 1)


def test_ratios_are_above_one_where_jaxft_is_better():
    def run(seconds, rate, memory, steps):
        return {"step_seconds": seconds, "useful_tokens_per_second": rate, "peak_bytes": memory, "steps": steps}

    measured = {
        "jaxft": [run(1.0, 300, 2**20, [1, 1]), run(2.0, 200, 2**20, [2, 2]), run(1.0, 100, 2**20, [3, 3])],
        "transformers": [run(2.0, 100, 2**21, [9]), run(2.0, 100, 2**21, [9]), run(3.0, 100, 2**21, [9])],
    }
    result = summary(measured, ["jaxft", "transformers"])
    assert result["jaxft"]["step_seconds"] == 1.0 and result["jaxft"]["steps"] == [1, 1, 2, 2, 3, 3]
    # Of the rounds' own ratios: 2, 1, 3 and 3, 2, 1.
    assert result["ratio"] == {"step_seconds": 2.0, "useful_tokens_per_second": 2.0, "peak_bytes": 2.0}
    lines = table({"model": "m", "device": "cpu", "rounds": 3, "train": result}).splitlines()
    assert lines[0] == "m on cpu, medians of 3 rounds"
    assert lines[3].split() == [
        "step",
        "1,000",
        "ms",
        "(1,000",
        "to",
        "3,000)",
        "2,000",
        "ms",
        "(9,000",
        "to",
        "9,000)",
        "2.00",
    ]
    assert lines[4].split() == ["useful", "tokens/s", "200", "100", "2.00"]
    assert lines[5].split() == ["peak", "memory", "1", "MiB", "2", "MiB", "2.00"]


CONFIG = """
from jaxft.config import Config
from jaxft.data import Data
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.tasks.classify import Classify


def get_config():
    return Config(model={model!r}, task=Classify(), data=Data(path={data!r}), lr=1e-3, batch=4, steps=9, max_len=32)
"""


def test_the_command(tiny_bert, tmp_path):
    rows = write_rows(tmp_path / "rows.csv", 23)
    (tmp_path / "run.py").write_text(CONFIG.format(model=str(tiny_bert), data=rows))
    command = [sys.executable, "-m", "jaxft.bench", f"--config={tmp_path}/run.py", "--against=transformers", "--json"]
    one_device = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run([*command, "--only=load", "--rounds=1"], capture_output=True, text=True, env=one_device)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["load"]["jaxft"]["seconds"] > 0 and report["load"]["transformers"]["seconds"] > 0
    times = {"seconds", "again_seconds", "read_seconds", "read_again_seconds"}
    assert report["load"]["ratio"].keys() == times | {"peak_bytes"} and "train" not in report
    for side in ("jaxft", "transformers"):
        assert report["load"][side]["read_seconds"] > report["load"][side]["seconds"]
