"""What the user gets wrong: exit code 2, one message that lists every problem, each with its fix, and no traceback."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from runs import command, write_rows

from jaxft.config import Config, Eval
from jaxft.data import Data, Pad
from jaxft.problems import RunStopped, UserError
from jaxft.tasks.classify import Classify
from jaxft.tasks.lm import CausalLM
from jaxft.training.fit import fit
from jaxft.tune.partial import Partial


@pytest.fixture
def make(tiny_bert, tmp_path, one_device):
    train = write_rows(tmp_path / "train.csv", 12)

    def config(**more) -> Config:
        options = {"model": str(tiny_bert), "task": Classify(), "data": Data(path=train), "max_len": 32} | more
        return Config(**{"lr": 1e-3, "batch": 4, "steps": 2, **options})

    return config


@pytest.fixture
def refused(make, tmp_path):
    """The problems that a run with these settings ends with, before it has written anything."""

    def run(**more) -> list[str]:
        with pytest.raises(UserError) as caught:
            fit(make(**more), str(tmp_path / "run"))
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
        return caught.value.problems

    return run


def write(path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_data(refused, tmp_path):
    (problem,) = refused(data=Data(path=str(tmp_path / "trian.csv")))
    assert "no such file" in problem and "train.csv" in problem
    (problem,) = refused(data=Data(path=write(tmp_path / "empty.csv", "")))
    assert "empty.csv" in problem and ("empty" in problem or "no rows" in problem)
    (problem,) = refused(task=Classify(text="txt"))
    assert "no column 'txt'. Did you mean 'text'?" in problem and "Columns: text, label" in problem
    # Two columns and two files: all of it at once.
    problems = refused(task=Classify(text="txt", label="lable"), evals={"val": Eval(data=Data(path="nowhere.csv"))})
    assert len(problems) == 3 and "config.evals.val.data" in problems[2]


def test_labels(refused, tmp_path):
    other = write(tmp_path / "other.csv", "text,label\na cat,pos\na dog,positive\n")
    (problem,) = refused(evals={"val": Eval(data=Data(path=other))})
    assert "row 2" in problem and "'positive'" in problem and "neg, neu, pos" in problem
    decimals = write(tmp_path / "decimals.csv", "text,label\na cat,0.5\na dog,1.25\n")
    (problem,) = refused(data=Data(path=decimals))
    assert "Regress" in problem


def test_a_classifier_for_other_classes(refused, tiny_classifier, tmp_path):
    other = write(tmp_path / "other.csv", "text,label\na cat,good\na dog,bad\nthe log,ugly\n")
    (problem,) = refused(model=str(tiny_classifier), data=Data(path=other))
    assert "neg, neu, pos" in problem and "config.init='backbone'" in problem


def test_lengths(refused):
    (problem,) = refused(max_len=100)
    assert "100 tokens" in problem and "64 positions" in problem and "config.max_len" in problem


def test_every_row_dropped(refused, tiny_gpt2, tmp_path):
    data = Data(path=write(tmp_path / "short.csv", "text\ncat\ndog\n"))
    (problem,) = refused(model=str(tiny_gpt2), task=CausalLM(), data=data, max_len=1)
    assert "no example is left of 2 rows" in problem and "fewer than two tokens (2)" in problem


def test_a_new_head_that_does_not_train(refused):
    problems = refused(tune=Partial(train=("embed",)))
    assert any("head.out.kernel is newly initialised but does not train" in problem for problem in problems)


def test_patterns(refused):
    (problem,) = refused(tune=Partial(train=("layer.1",)))
    assert "matches no parameter" in problem and "layers.1" in problem


def test_batch_and_devices(make, tmp_path, monkeypatch):
    import jax

    monkeypatch.setattr(jax, "device_count", lambda *backend: 8)
    with pytest.raises(UserError, match="config.batch is 12, which 8 shards .* Nearest that fit: 8 or 16"):
        fit(make(batch=12), str(tmp_path / "run"))


def test_a_loss_that_is_not_a_number(make, tmp_path):
    class Broken(Classify):
        def loss(self, out, batch):
            mean = Classify.loss(self, out, batch)["loss"]
            return {"loss": mean._replace(total=mean.total * float("nan"))}

    with pytest.raises(RunStopped, match="NaN or infinite in 2 of the steps up to 2.* Try a smaller config.lr"):
        fit(make(task=Broken()), str(tmp_path / "stopped"))
    fit(make(task=Broken(), nonfinite="skip", log_every=1), str(tmp_path / "skipped"))
    lines = [json.loads(line) for line in (tmp_path / "skipped" / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [1, 2] and lines[0]["loss"] is None


CONFIG = """
from jaxft.config import Config
from jaxft.data import Data
from jaxft.tasks.classify import Classify


def get_config():
    data, task = Data(path={data!r}), Classify({task})
    return Config(model={model!r}, task=task, data=data, lr=1e-3, batch=4, steps=2, max_len=32)
"""


@pytest.mark.slow
def test_exit_codes(tiny_bert, tmp_path):
    def config(model=str(tiny_bert), task="", data="train.csv"):
        return CONFIG.format(model=model, task=task, data=data)

    write_rows(tmp_path / "train.csv", 12)
    write(tmp_path / "empty.csv", "")
    mistakes = [
        (config(), ["--config.sede=1", "--config.lr=fast"], ["Did you mean --config.seed?", "config.lr"]),
        (config(model="./nowhere"), [], ["config.model", "does not exist"]),
        (config(task='txt="a"'), [], ["Classify has no field 'txt'", "x.py, line"]),
        (config(task='text="body"'), [], ["no column 'body'", "Columns: text, label"]),
        (config(data="empty.csv"), [], ["empty.csv"]),
    ]
    for text, flags, words in mistakes:
        file = write(tmp_path / "x.py", text)
        done = command("train", f"--config={file}", "--workdir=run", *flags, cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == ""
        assert "Traceback" not in done.stderr
        assert all(word in done.stderr for word in words), done.stderr
    done = command("evaluate", "--workdir=nothing", cwd=tmp_path)
    assert done.returncode == 2 and "nothing" in done.stderr and "Traceback" not in done.stderr
    for name in ("train", "evaluate", "predict", "export"):
        done = command(name, "--help", cwd=tmp_path)
        assert done.returncode == 0 and f"python -m jaxft.{name}" in done.stdout


@pytest.mark.slow
def test_without_a_network(tiny_bert, tmp_path):
    """Train, evaluate, export and predict from local files: not one connection is tried."""
    write_rows(tmp_path / "train.csv", 12)
    write(tmp_path / "x.py", CONFIG.format(model=str(tiny_bert), task="", data="train.csv"))
    guard = "import socket\n\n\ndef refuse(*args):\n    raise SystemExit('a connection was tried')\n\n\n"
    write(tmp_path / "sitecustomize.py", guard + "socket.socket.connect = refuse\nsocket.getaddrinfo = refuse\n")
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    environment.pop("HF_HUB_OFFLINE")
    lines = [
        "train --config=x.py --workdir=run",
        "train --config=x.py --workdir=run --config.log_every=5",
        "evaluate --workdir=run",
        "export --workdir=run --output=out",
        "predict --model=out --input=train.csv --output=answers.jsonl",
    ]
    for line in lines:
        done = subprocess.run(
            [sys.executable, "-m", *("jaxft." + line).split()],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "run")


def test_rows_that_are_cut_off_are_reported(make, tmp_path, caplog):
    with caplog.at_level("INFO", "jaxft"):
        fit(make(max_len=8, batching=Pad(buckets=(8,))), str(tmp_path / "run"))
    assert "cut off at config.max_len" in caplog.text
