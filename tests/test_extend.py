"""What may change when a run goes on: not its rows or weights; its length, if that is asked for."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import transformers
from conftest import bert_config, save_perturbed
from runs import config_file, numbers

from jaxft.config import Config, Eval, Save
from jaxft.data import Data, Pad
from jaxft.data.encoded import encode_all
from jaxft.data.fingerprint import difference, fingerprint
from jaxft.optim.schedule import Constant, Linear
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.training.fit import fit
from jaxft.tune.partial import Partial

COUNT = 10


def write(path, rows=range(COUNT)):
    path.write_text("".join(json.dumps({"text": f"the cat {row} sat", "label": "xy"[row % 2]}) + "\n" for row in rows))


@pytest.fixture
def make(tiny_bert, tmp_path, one_device):
    """Config of 10 rows in batches of 4: 3 steps an epoch, of which the last has 2."""
    for name in ("train", "val"):
        write(tmp_path / f"{name}.jsonl")
    val = {"val": Eval(data=Data(path=str(tmp_path / "val.jsonl")))}

    def config(**more) -> Config:
        options = {
            "epochs": 1,
            "save": Save(every=2, keep=9, best="val/loss"),
            "model": str(tiny_bert),
            "lr": 1e-3,
        } | more
        return Config(
            task=Classify(),
            data=Data(path=str(tmp_path / "train*.jsonl")),
            evals=val,
            batch=4,
            max_len=16,
            batching=Pad(buckets=(16,)),
            log_every=1,
            **options,
        )

    return config


def interrupted(cfg, workdir) -> None:
    """A run that has lost all but its first checkpoint."""
    fit(cfg, str(workdir))
    for lost in ("checkpoints/3", "model"):
        shutil.rmtree(workdir / lost)


def problems(*arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        fit(*arguments, **named)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_other_rows_are_refused(make, tmp_path, caplog):
    run, folder = tmp_path / "run", tmp_path
    interrupted(make(), run)
    write(folder / "train2.jsonl", range(20, 26))
    said = problems(make(), str(run))
    assert "16 rows, 10 before; the first that differs is row 11" in said
    assert f"--config.model={run / 'model'} --workdir=ANOTHER" in said
    (folder / "train2.jsonl").unlink()
    (folder / "train.jsonl").write_text((folder / "train.jsonl").read_text().replace("cat 6", "dog 6"))
    assert "as many rows; the first that differs is row 7." in problems(make(), str(run))
    write(folder / "train.jsonl", range(COUNT - 2))
    assert "8 rows, 10 before; the common ones are the same" in problems(make(), str(run))
    write(folder / "train.jsonl")
    write(folder / "val.jsonl", range(5))
    with caplog.at_level(logging.INFO, "jaxft"):
        fit(make(), str(run))
    assert "config.evals.val is another set now, 5 rows, 10 before" in caplog.text
    assert "so is the choice of the best checkpoint" in caplog.text
    assert "resumed from the checkpoint of step 2" in caplog.text and (run / "model").is_dir()


def test_a_run_of_an_earlier_version_and_one_without_checkpoints(make, tmp_path, caplog):
    run = tmp_path / "run"
    interrupted(make(), run)
    before = (run / "origin.json").read_text()
    (run / "origin.json").unlink()
    with caplog.at_level(logging.INFO, "jaxft"):
        fit(make(), str(run))
    assert "its rows cannot be compared" in caplog.text
    assert (run / "origin.json").read_text() == before
    for text in ("[]", "{", json.dumps({"ends": 3}), json.dumps(json.loads(before) | {"ends": [5, 5]})):
        (run / "origin.json").write_text(text)
        assert "origin.json is damaged" in problems(make(), str(run))
    (run / "origin.json").write_text(before)
    shutil.rmtree(run / "checkpoints")
    write(tmp_path / "train.jsonl", range(30, 50))
    fit(make(), str(run))  # begins anew
    assert numbers(run)[-1]["step"] == 5


def test_frozen_weights_that_changed(make, tmp_path, bert_tokenizer, caplog):
    model = tmp_path / "base"
    for tune, refused in ((Partial(last_layers=1), True), (Partial(), False)):
        save_perturbed(transformers.BertModel(bert_config(bert_tokenizer)), bert_tokenizer, model)
        run = tmp_path / str(refused)
        interrupted(make(model=str(model), init="backbone", tune=tune), run)
        save_perturbed(transformers.BertModel(bert_config(bert_tokenizer)), bert_tokenizer, model, seed=5)
        if refused:
            assert "the weights in" in problems(make(model=str(model), init="backbone", tune=tune), str(run))
        else:
            fit(make(model=str(model), init="backbone", tune=tune), str(run))


def test_a_run_grows(make, tmp_path, caplog):
    """Complete, then longer: each epoch is each row once, the rate is that of the longer run."""
    run = tmp_path / "run"
    fit(make(), str(run))
    first = [line for line in numbers(run) if line["split"] == "train"]
    said = problems(make(epochs=3), str(run))
    assert "config.epochs is 3, but" in said and "let this run grow with --extend" in said
    said = problems(make(lr=1.0), str(run), extend=True)
    assert "config.lr is 1.0, but" in said and f"--config.model={run / 'model'} --workdir=ANOTHER" in said
    with caplog.at_level(logging.INFO, "jaxft"):
        fit(make(epochs=3), str(run), extend=True)
    train = [line for line in numbers(run) if line["split"] == "train"]
    assert train[:3] == first and [line["step"] for line in train] == list(range(1, 9))
    assert train[2]["epoch"] == 1.0 and train[-1]["epoch"] == 3.0
    rates = Linear().make(1e-3, 8)
    assert [line["learning_rate"] for line in train[3:]] == pytest.approx([float(rates(t)) for t in range(3, 8)])
    assert "extended from 3 to 8 steps: the learning rate is now that of Linear over 8 steps" in caplog.text
    assert f"{rates(3):.2e} at step 4 (it was 0.00e+00 there) and {rates(7):.2e} at the last" in caplog.text
    assert "it can only grow" in problems(make(epochs=2), str(run), extend=True)
    caplog.clear()
    fit(make(epochs=3), str(run))  # the same command without the flag, or with it, finds it complete
    fit(make(epochs=3), str(run), extend=True)
    assert "extended" not in caplog.text
    assert "holds no run: leave it out" in problems(make(), str(tmp_path / "none"), extend=True)


def test_the_command_extends(make, tmp_path):
    run = tmp_path / "run"
    fit(make(), str(run))
    line = [sys.executable, "-m", "jaxft.train", f"--config={config_file(make(epochs=None, steps=5), tmp_path)}"]
    flags = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")}
    refused = subprocess.run([*line, f"--workdir={run}"], capture_output=True, text=True, env=flags)
    assert refused.returncode == 2 and "--extend" in refused.stderr and "2 problems" in refused.stderr
    done = subprocess.run([*line, f"--workdir={run}", "--extend"], capture_output=True, text=True, env=flags)
    assert done.returncode == 0 and "extended from 3 to 5 steps" in done.stderr, done.stderr
    assert json.loads((run / "origin.json").read_text())["ends"] == [10, 18]


NOTHING = {
    "one step of warm-up": ({"epochs": 0.4}, "the learning rate is 0 in every one of the run's 1 steps"),
    "no rate": ({"lr": 1e-300}, "the learning rate is 0 in every one of the run's 3 steps"),
    "factors": ({"lr_multipliers": ((".*", 0.0),)}, "config.lr_multipliers gives 0 to all that config.tune trains"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_run_that_would_train_nothing_is_refused(name, make, tmp_path):
    more, wanted = NOTHING[name]
    assert wanted in problems(make(**more), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
    if name == "one step of warm-up":
        fit(make(schedule=Constant(), save=Save(), **more), str(tmp_path / "run"))


def test_fingerprints():
    """Every value, length, key and type counts, in blocks that say where."""

    def encoded(change=None, count=2500, dtype=np.int32):
        rows = [np.arange(row % 5 + 1, dtype=dtype) for row in range(count)]
        if change is not None:
            rows[change] = rows[change] + 1
        return encode_all(rows, lambda some: [{"tokens": row} for row in some])

    before = json.loads(json.dumps(fingerprint(encoded())))
    assert before["size"] == 3 and len(before["blocks"]) == 834 and before["rows"] == before["examples"] == 2500
    assert difference(before, encoded()) is None
    assert difference(before, encoded(1000)) == "as many rows; the first that differs is one of the rows 1,000 to 1,002"
    assert difference(before, encoded(2499)) == "as many rows; the first that differs is row 2,500"
    assert difference(before, encoded(count=2502)).startswith("2,502 rows, 2,500 before; the first that differs")
    assert difference(before, encoded(dtype=np.int64)) is not None
    cut = encode_all([np.arange(6), np.arange(2)], lambda some: [{"tokens": row} for row in some])
    other = encode_all([np.arange(6)[:5], np.array([5, 0, 1])], lambda some: [{"tokens": row} for row in some])
    assert difference(fingerprint(cut, 2), other) is not None  # the same tokens, cut elsewhere
    raw = b"tokens <i8 ()" + np.array([6], "<i8").tobytes() + np.arange(6, dtype="<i8").tobytes()
    assert fingerprint(cut)["blocks"][0] == hashlib.blake2b(raw, digest_size=8).hexdigest()  # whatever the version
