"""Two processes with four devices each are one machine with eight: training, resuming, evaluating, exporting."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import TEXTS
from runs import config_file, numbers, start_processes, write_rows
from safetensors.numpy import load_file

from jaxft.config import Config, Eval, Mesh, Save
from jaxft.data import Data, Pack, Pad
from jaxft.parallel import distributed
from jaxft.tasks.classify import Classify
from jaxft.tasks.lm import CausalLM
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.training.fit import fit
from jaxft.training.saved_run import evaluate_model

TOLERANCE = 1e-5


def in_processes(count, *words) -> list[list[str]]:
    """The records that each of them prints; Gloo, which carries the sums between CPUs, prints on stdout, too."""
    started = start_processes(count, *words)
    outputs = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * count, outputs
    return [[line for line in out.splitlines() if line.startswith("{")] for out, _ in outputs]


def same(a, b) -> None:
    """Lines of numbers, but for the order in which eight devices' sums are added."""
    assert [line.keys() for line in a] == [line.keys() for line in b]
    for one, other in zip(a, b, strict=True):
        assert one["step"] == other["step"] and one["split"] == other["split"]
        for name in one.keys() - {"split"}:
            assert one[name] == pytest.approx(other[name], rel=TOLERANCE, abs=TOLERANCE), name


@pytest.mark.slow
def test_two_processes_are_one_machine(tiny_llama, tmp_path):
    """Weights that no process holds as a whole, packed rows, accumulation, dropout, a stop in the middle."""
    data = Data(path=write_rows(tmp_path / "rows.csv", 61))
    cfg = Config(
        model=str(tiny_llama),
        task=CausalLM(),
        data=data,
        evals={"val": Eval(data=data, every=4)},
        lr=3e-3,
        batch=32,
        micro_batches=2,
        steps=8,
        dropout=0.1,
        batching=Pack(length=32),
        mesh=Mesh(data=1, fsdp=8),
        log_every=1,
        save=Save(every=4, best="val/loss", keep=3),
    )
    fit(cfg, str(tmp_path / "one"))
    file, two = config_file(cfg, tmp_path), tmp_path / "two"
    (first, second) = in_processes(2, "jaxft.train", f"--config={file}", f"--workdir={two}")
    same(numbers(two), numbers(tmp_path / "one"))
    assert json.loads(first[0])["split"] == "val" and second == []  # one process speaks
    ours, expected = (load_file(folder / "model" / "model.safetensors") for folder in (two, tmp_path / "one"))
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=TOLERANCE, err_msg=name)
    # The same work directory, taken up at step 4, evaluated and exported.
    whole = numbers(two)
    for folder in (two / "checkpoints" / "8", two / "model"):
        shutil.rmtree(folder)
    in_processes(2, "jaxft.train", f"--config={file}", f"--workdir={two}")
    assert numbers(two) == whole
    again = load_file(two / "model" / "model.safetensors")
    assert all(again[name].tobytes() == array.tobytes() for name, array in ours.items())
    (first, second) = in_processes(2, "jaxft.evaluate", f"--workdir={two}", "--step=8")
    assert json.loads(first[0])["loss"] == pytest.approx(whole[-1]["loss"], abs=1e-6) and second == []
    in_processes(2, "jaxft.export", f"--workdir={two}", f"--output={tmp_path / 'out'}", "--step=8")
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert all(exported[name].tobytes() == array.tobytes() for name, array in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "mesh"),
    [(2, Mesh(data=1, tensor=8)), (4, Mesh(data=2, tensor=4))],
    ids=str,
)
def test_a_tensor_axis_across_processes(count, mesh, tiny_bert, tmp_path):
    """Processes that hold the same piece of a batch load the same rows, in training and in evaluation."""
    data = Data(path=write_rows(tmp_path / "rows.csv", 29))
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(),
        data=data,
        evals={"val": Eval(data=data, batch=6)},
        lr=3e-3,
        batch=8,
        micro_batches=2,
        epochs=1,
        dropout=0.1,
        max_len=32,
        batching=Pad(buckets=(32,), window=2),
        log_every=1,
        mesh=mesh,
        save=Save(every=4),
    )
    fit(replace(cfg, mesh=Mesh(data=2, fsdp=1, tensor=4)), str(tmp_path / "one"))
    file, several = config_file(cfg, tmp_path), tmp_path / "several"
    records = in_processes(count, "jaxft.train", f"--config={file}", f"--workdir={several}")
    same(numbers(several), numbers(tmp_path / "one"))
    assert json.loads(records[0][0])["split"] == "val" and not any(records[1:])
    ours, expected = (load_file(folder / "model" / "model.safetensors") for folder in (several, tmp_path / "one"))
    for name, array in expected.items():
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.slow
def test_answers_to_questions_are_those_of_one_process(reader, tmp_path):
    """Windows of a question lie in rows of both processes; its answer and the file of answers are of all of them."""
    context = " ".join(TEXTS)
    rows = [
        {
            "id": str(number),
            "question": word,
            "context": context,
            "answers": {"text": [word], "answer_start": [context.index(word)]},
        }
        for number, word in enumerate(["harbour", "great story", "dull", "20 and 30", "log"])
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(path=str(tmp_path / "rows.jsonl"))
    cfg = Config(
        model=str(reader),
        task=QuestionAnswering(stride=8),
        data=data,
        evals={"val": Eval(data=data)},
        max_len=32,
        batching=Pack(length=32),
        lr=1e-3,
        batch=8,
        steps=1,
    )
    alone = evaluate_model(cfg, str(reader), output=str(tmp_path / "one"))["val"]
    file, two = config_file(cfg, tmp_path), tmp_path / "two"
    (first, second) = in_processes(2, "jaxft.evaluate", f"--model={reader}", f"--config={file}", f"--output={two}")
    assert json.loads(first[0]) == pytest.approx({"split": "val", **alone}, abs=1e-5) and second == []
    wrote = [folder / "predictions/val.json" for folder in (tmp_path / "one", two)]
    assert wrote[1].read_bytes() == wrote[0].read_bytes() and json.loads(wrote[0].read_bytes()).keys() == set("01234")


@pytest.mark.slow
def test_one_process_is_asked_to_end_and_both_do(tiny_bert, tmp_path):
    data = Data(path=write_rows(tmp_path / "rows.csv", 61))
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(),
        data=data,
        lr=1e-3,
        batch=8,
        steps=100_000,
        max_len=32,
        log_every=1,
        save=Save(every=50_000),
    )
    file, workdir = config_file(cfg, tmp_path), tmp_path / "run"
    started = start_processes(2, "jaxft.train", f"--config={file}", f"--workdir={workdir}")
    give_up = time.monotonic() + 120
    while not (workdir / "metrics.jsonl").exists() or len(numbers(workdir)) < 3:
        assert time.monotonic() < give_up and started[0].poll() is None
        time.sleep(0.2)
    started[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [75, 75], outputs
    saved = [folder.name for folder in (workdir / "checkpoints").iterdir()]
    assert len(saved) == 1, outputs
    step = int(saved[0])
    for _, error in outputs:
        assert f"step {step} is saved: the same command goes on" in error
    assert numbers(workdir)[-1]["step"] == step


TOO_LITTLE = {
    "JAXFT_DISTRIBUTED=1": "unset JAXFT_DISTRIBUTED",
    "JAX_COORDINATOR_ADDRESS=localhost:1": "JAX_NUM_PROCESSES and JAX_PROCESS_ID",
    "JAX_COORDINATOR_ADDRESS=localhost:1 JAX_NUM_PROCESSES=two": "JAX_NUM_PROCESSES=two is not a whole number",
}


@pytest.mark.slow
def test_launchers_that_say_too_little(tmp_path):
    for settings, words in TOO_LITTLE.items():
        environment = os.environ | dict(setting.split("=") for setting in settings.split())
        line = [sys.executable, "-m", "jaxft.export", f"--workdir={tmp_path}", f"--output={tmp_path / 'out'}"]
        done = subprocess.run(line, env=environment, capture_output=True, text=True)
        assert done.returncode == 2 and words in done.stderr, done.stderr


def test_alone(monkeypatch):
    """Without a word from a launcher nothing is asked for, even where a cluster would answer."""
    monkeypatch.setattr("jax.distributed.initialize", lambda *args: pytest.fail("asked"))
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.delenv("JAXFT_DISTRIBUTED", raising=False)
    distributed.start()
    monkeypatch.setenv("JAXFT_DISTRIBUTED", "0")
    distributed.start()


@pytest.mark.slow
def test_one_two_and_four_processes_share_checkpoints(tiny_bert, tmp_path):
    """Two are one machine, and a checkpoint of theirs goes on in one and in four; the number of rows is a prime."""
    data = Data(path=write_rows(tmp_path / "rows.csv", 61))
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(),
        data=data,
        evals={"val": Eval(data=data, every=4, batch=8)},
        lr=3e-3,
        batch=8,
        steps=8,
        dropout=0.1,
        max_len=32,
        log_every=1,
        save=Save(every=4, keep=3),
        batching=Pad(buckets=(32,)),
        mesh=Mesh(data=2, fsdp=4),
    )
    file = config_file(cfg, tmp_path)
    fit(cfg, str(tmp_path / "one"))
    expected = numbers(tmp_path / "one")
    in_processes(2, "jaxft.train", f"--config={file}", f"--workdir={tmp_path / 'two'}")
    same(numbers(tmp_path / "two"), expected)
    for count in (1, 4):
        workdir = tmp_path / f"two-{count}"
        shutil.copytree(tmp_path / "two", workdir)
        for folder in (workdir / "checkpoints" / "8", workdir / "model"):
            shutil.rmtree(folder)
        if count == 1:
            fit(cfg, str(workdir))
        else:
            in_processes(count, "jaxft.train", f"--config={file}", f"--workdir={workdir}")
        same(numbers(workdir), expected)
