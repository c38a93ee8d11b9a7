"""What the loop costs beside its steps: waits for the devices, and what stays in memory."""

import contextlib
import json
import shutil
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from runs import write_rows
from safetensors.numpy import load_file

from jaxft.config import Config, Eval, Save
from jaxft.config.component import config
from jaxft.data import Data, Pad
from jaxft.problems import RunStopped
from jaxft.reports.report import Report
from jaxft.reports.sinks import Writer
from jaxft.tasks.classify import Classify
from jaxft.training import loop as module
from jaxft.training import throughput
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.fit import fit
from jaxft.training.saved_run import evaluate_model, export_run


@pytest.fixture
def cfg(tiny_bert, tmp_path, one_device):
    data = Data(path=write_rows(tmp_path / "rows.csv", 23))
    return Config(
        model=str(tiny_bert),
        task=Classify(),
        data=data,
        evals={"val": Eval(data=data, every=20)},
        lr=1e-3,
        batch=4,
        steps=60,
        max_len=32,
        batching=Pad(buckets=(32,)),
        log_every=20,
        save=Save(every=20),
    )


def test_the_host_waits_at_log_points_only(cfg, tmp_path, monkeypatch):
    """Whatever reads a device's array on the host waits for it: a float(), NumPy, a transfer asked for."""
    array = type(jnp.zeros(()))
    plain, before = array._value, module.Run.next_batch
    reads, step = Counter(), [0]

    def value(self):
        reads[step[0]] += 1
        return plain.fget(self)

    def next_batch(run):
        step[0] = run.done
        return before(run)

    monkeypatch.setattr(array, "_value", property(value))
    monkeypatch.setattr(module.Run, "next_batch", next_batch)
    fit(cfg, str(tmp_path / "run"))
    # The next batch is asked for before a step's metrics are; after the last step there is none.
    assert {number for number in reads if number} == {20, 40, 59}


def test_rates_count_what_the_devices_do_while_the_host_compiles(monkeypatch):
    """Steps are under way when another shape is compiled and when evaluation begins; both take longer than they do."""
    monkeypatch.setattr(throughput, "step_flops", lambda *_: 0)
    step = jax.jit(lambda x: jax.lax.fori_loop(0, 200, lambda _, x: x @ x / 16, x))
    state = jax.block_until_ready(step(jnp.ones((256, 256)) / 16))

    def seconds(wait):
        start = time.monotonic()
        wait(step(state))
        return time.monotonic() - start

    alone = min(seconds(jax.block_until_ready) for _ in range(3))
    assert min(seconds(lambda _: None) for _ in range(3)) < alone / 4  # the host does not wait
    clock = throughput.Throughput(SimpleNamespace(trained=(), model=None))
    for length in (8, 8, 8, 16):
        batch = {"tokens": np.zeros((2, length))}
        clock.before(lambda *_: time.sleep(8 * alone), state, batch)
        state = step(state)
    with clock.paused(state):
        time.sleep(8 * alone)
    assert 1 / clock.numbers(tokens=1)["tokens_per_second"] > 0.8 * 4 * alone


def test_what_compiles_is_shown_and_few_steps_are_said(cfg, tmp_path, monkeypatch, caplog):
    texts = []

    def activity(self, text):
        texts.append(text)
        return contextlib.nullcontext()

    monkeypatch.setattr(Writer, "activity", activity)
    run = fit(replace(cfg, steps=6, epochs=None), tmp_path / "run")
    shapes = json.loads((run.workdir / "summary.json").read_text())["batches"]["shapes"]
    expected = [f"compiling {number} of {len(shapes)} shapes, " for number in range(1, len(texts) + 1)]
    assert texts and [text[: len(one)] for text, one in zip(texts, expected, strict=True)] == expected
    assert {text.rpartition(", ")[2] for text in texts} <= {f"{rows} x {length}" for rows, length in shapes}
    assert "6 steps are few: most models need 100 or more to learn a task" in caplog.text


def test_nothing_piles_up(cfg, tmp_path, monkeypatch):
    """Arrays on the devices: as many after 60 steps as after 20."""
    arrays, plain = {}, module.after_step

    def after_step(run):
        plain(run)
        run.checkpoints.wait()
        arrays[run.done] = len(jax.live_arrays())

    monkeypatch.setattr(module, "after_step", after_step)
    fit(cfg, str(tmp_path / "run"))
    assert arrays[20] == arrays[40] == arrays[60]
    # Between log points each step leaves its few numbers behind.
    assert [arrays[step + 1] - arrays[step] for step in range(41, 59)] == [arrays[2] - arrays[1]] * 18
    assert arrays[2] - arrays[1] < 10


@config
class Explodes:
    """A schedule under which the last update is infinite; no loss sees it."""

    def make(self, lr, total):
        return lambda step: jnp.where(step == total - 1, jnp.inf, lr)


def test_a_model_that_is_not_finite_is_not_written(cfg, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    fit(replace(cfg, steps=2), str(good))
    shutil.copytree(good / "model", bad / "model")
    before = {file.name: file.read_bytes() for file in (bad / "model").iterdir()}
    broken = replace(cfg, steps=2, schedule=Explodes(), save=Save(every=1))
    with pytest.raises(RunStopped, match=r"after step 2 \d+ of the model's weights are NaN or infinite \(embed.*more"):
        fit(broken, str(bad))
    assert {file.name: file.read_bytes() for file in (bad / "model").iterdir()} == before
    with pytest.raises(RunStopped, match="is not written"):
        export_run(str(bad), str(tmp_path / "exported"), None, "merged")
    assert not (tmp_path / "exported").exists()
    assert export_run(str(bad), str(tmp_path / "exported"), 1, "merged") == 1


@pytest.mark.parametrize("base", ["float16", "bfloat16"])
def test_rounded_weights_are_measured_and_said(base, cfg, tmp_path, caplog):
    """After training in float32: the log and the card have what the written directory scores."""
    caplog.set_level("INFO")
    theirs = transformers.BertModel.from_pretrained(cfg.model).to(getattr(torch, base))
    shutil.copytree(cfg.model, tmp_path / "base")
    theirs.save_pretrained(tmp_path / "base")
    cfg = replace(cfg, model=str(tmp_path / "base"), lr=0.05, steps=6, init="backbone")
    trained = fit(cfg, str(tmp_path / "run")).metrics["val"]
    model = tmp_path / "run" / "model"
    assert {array.dtype.name for array in load_file(model / "model.safetensors").values()} == {base}
    as_written = evaluate_model(cfg, str(model))["val"]
    lines = [line for line in (model / "README.md").read_text().splitlines() if line.startswith("| `")]
    found = {name.strip("` "): (before, after) for _, name, before, after, _ in (line.split("|") for line in lines)}
    assert found["loss"] == tuple(f" {value['loss']:.4f} " for value in (trained, as_written))
    assert found["loss"][0] != found["loss"][1]  # or this shows nothing
    assert all(after == f" {as_written[name]:.4f} " for name, (_, after) in found.items())
    assert f"Weights were trained in float32 and are written in {base}." in (model / "README.md").read_text()
    assert f"model: {base} (as the base checkpoint), trained in float32" in caplog.text
    assert f"val with the weights rounded to {base}: loss {as_written['loss']:.4f} instead of" in caplog.text


def test_everything_is_closed_even_where_one_part_cannot_be(cfg, tmp_path, monkeypatch):
    """As on a full disk, where the last lines of metrics.jsonl do not fit."""
    closed = []

    def watch(owner, name, error=None):
        plain = getattr(owner, name)

        def close(self):
            closed.append(owner.__name__)
            plain(self)
            if error:
                raise error

        monkeypatch.setattr(owner, name, close)

    watch(Report, "close")
    watch(Writer, "close", OSError("no room"))
    watch(Checkpoints, "close")
    with pytest.raises(OSError, match="no room"):
        fit(replace(cfg, steps=2), str(tmp_path / "run"))
    assert sorted(closed) == ["Checkpoints", "Report", "Writer"]
