"""Where numbers go: the file, lines, the live line, TensorBoard, Weights & Biases."""

import io
import json
import math
import sys
import time
from types import SimpleNamespace

import pytest

from jaxft.config import Config
from jaxft.data import Data
from jaxft.problems import UserError
from jaxft.reports import progress
from jaxft.reports.progress import Clock, Lines, Terminal, describe, duration
from jaxft.reports.sinks import JsonLines, Writer
from jaxft.tasks.classify import Classify
from jaxft.training.fit import fit

NUMBERS = {"loss": 1.25, "learning_rate": 3e-5, "tokens_per_second": 12345.6, "memory_bytes": 3 * 2**30}


def test_lines_for_people():
    assert describe(7, 90, "train", NUMBERS, None) == "step 7/90  loss 1.2500  lr 3.00e-05  12,346 tok/s  3.00 GiB"
    more = NUMBERS | {"mfu": 0.4567, "skipped": 2}
    line = describe(7, 90, "train", more, 187.4)
    assert line.endswith("12,346 tok/s  MFU 45.7%  3.00 GiB  skipped 2  3:07 left")
    assert describe(7, 90, "val", {"accuracy": 0.5, "loss": 2.0}, None) == "step 7 val: accuracy 0.5000, loss 2.0000"
    assert [duration(s) for s in (0, 59.6, 187, 3727, 360000)] == ["0:00", "1:00", "3:07", "1:02:07", "100:00:00"]


def test_time_left(monkeypatch):
    """From the pace since the first log point, since compiling came before it."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock = Clock(total=110)
    assert clock.remaining(10, "train") is None
    now[0] += 40
    assert clock.remaining(20, "val") is None
    assert clock.remaining(20, "train") == pytest.approx(90 * 4)
    now[0] += 10
    assert clock.remaining(30, "train") == pytest.approx(80 * 50 / 20)
    now[0] += 50
    assert clock.remaining(110, "train") == 0


def test_lines_of_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path, 0)
    for step in range(1, 6):
        lines.write(step, "train", {"loss": float("nan") if step == 2 else 1 / 3, "norm": float("inf")})
        assert len(path.read_text().splitlines()) == step  # there at once, for whoever watches
    lines.close()
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert read[0] == {"step": 1, "split": "train", "loss": 1 / 3, "norm": None} and read[1]["loss"] is None
    # A run that starts again after step 3 writes 4 and 5 anew; half a line, as a crash leaves it, goes.
    path.write_text(path.read_text() + '{"step": 3, "spl')
    again = JsonLines(path, 3)
    again.write(4, "train", {"loss": 2.0})
    again.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_plain_lines(capsys):
    lines = Lines(10)
    lines.write(5, "train", NUMBERS)
    lines.write(5, "val", {"loss": 2.0})
    lines.close()
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines()[1] == "step 5 val: loss 2.0000"
    assert "\r" not in captured.err and "\x1b" not in captured.err


class Tty(io.StringIO):
    def isatty(self):
        return True


def test_the_live_line(monkeypatch):
    screen = Tty()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    live = Terminal(10)
    for step in (5, 10):
        live.write(step, "train", NUMBERS)
        live.write(step, "val", {"loss": 2.0})
    with live.activity("compiling 2 of 6 shapes, 32 x 104"):
        time.sleep(0.5)  # it is drawn ten times a second
    live.close()
    shown = screen.getvalue()
    assert "compiling 2 of 6 shapes, 32 x 104, 0 s" in shown
    assert shown.rindex("step 10/10") > shown.rindex("compiling")
    assert shown.count("step 5 val: loss 2.0000") == 1 and "step 10/10  loss 1.2500" in shown
    assert "12,346 tok/s" in shown and "\x1b[" in shown


class Run(SimpleNamespace):
    def log(self, numbers, step):
        self.logged.append((step, numbers))

    def finish(self):
        self.finished = True


def test_every_sink_gets_every_number(tmp_path, monkeypatch):
    """TensorBoard and Weights & Biases by stand-ins with their interfaces: they are extras."""
    runs, boards = [], []

    def init(**options):
        runs.append(Run(logged=[], options=options, finished=False))
        return runs[-1]

    class SummaryWriter:
        def __init__(self, directory, purge_step):
            self.directory, self.purge_step, self.scalars, self.closed = directory, purge_step, [], False
            boards.append(self)

        def add_scalar(self, name, value, step):
            self.scalars.append((name, value, step))

        def close(self):
            self.closed = True

    spec = SimpleNamespace(name="stand-in")
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, __spec__=spec))
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=SummaryWriter, __spec__=spec))
    workdir = tmp_path / "my-run"
    workdir.mkdir()
    made = Writer(workdir, 3, 10, "my-project")
    made.write(4, "train", {"loss": 2.0, "learning_rate": 1.0})
    made.write(4, "val", {"accuracy": 0.5})
    made.close()
    (run,), (board,) = runs, boards
    wanted = {"project": "my-project", "id": "my-run", "name": "my-run", "dir": str(workdir), "resume": "allow"}
    assert run.options == wanted and run.finished
    assert run.logged == [(4, {"train/loss": 2.0, "train/learning_rate": 1.0}), (4, {"val/accuracy": 0.5})]
    # What an unfinished run wrote beyond the checkpoint is hidden.
    assert board.purge_step == 4 and board.closed
    assert board.scalars == [("train/loss", 2.0, 4), ("train/learning_rate", 1.0, 4), ("val/accuracy", 0.5, 4)]
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 2


def test_wandb_that_is_not_installed(tiny_bert, tmp_path):
    """Before data is encoded and weights are read."""
    (tmp_path / "rows.csv").write_text("text,label\na film,a\na cat,b\n")
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(),
        data=Data(path=str(tmp_path / "rows.csv")),
        lr=1e-3,
        batch=8,
        steps=1,
        max_len=32,
        wandb="my-project",
    )
    with pytest.raises(UserError, match=r"wandb is not installed: pip install 'jaxft\[wandb\]'"):
        fit(cfg, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    made = Writer(tmp_path, 0, 10, "my-project")
    made.write(1, "train", {"loss": math.pi})
    made.close()
    assert list(tmp_path.iterdir()) == []
