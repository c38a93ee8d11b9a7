"""A process that dies or fails does not leave the others waiting: they say so and end, whatever they are doing."""

import signal
import time

import pytest
from runs import config_file, numbers, start_processes, write_rows

from jaxft.config import Config, Eval, Save
from jaxft.data import Data, Pad
from jaxft.tasks.classify import Classify
from jaxft.training.lock import workdir_lock

WITHIN = 20  # seconds; what is promised is 60


@pytest.fixture
def endless(tiny_bert, tmp_path):
    """A configuration file whose run does not end by itself, and saves and evaluates often."""
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
        batching=Pad(buckets=(32,)),
        save=Save(every=5),
        evals={"val": Eval(data=data, every=5)},
    )
    return config_file(cfg, tmp_path)


def wait_for(condition, process, seconds=120):
    give_up = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > give_up:
            process.kill()
            pytest.fail(process.communicate()[1][-5000:])
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])  # process 0 is the one that all others are connected to
def test_a_killed_process_ends_the_others(endless, tmp_path, victim):
    workdir = tmp_path / "run"
    started = start_processes(2, "jaxft.train", f"--config={endless}", f"--workdir={workdir}")
    wait_for(lambda: (workdir / "metrics.jsonl").exists() and numbers(workdir)[-1:] > [], started[0])
    wait_for(lambda: numbers(workdir)[-1]["step"] > 12, started[0])
    started[victim].kill()
    killed = time.monotonic()
    _, error = started[1 - victim].communicate(timeout=60)
    assert time.monotonic() - killed < WITHIN
    started[victim].communicate()
    assert started[1 - victim].returncode == 75, error
    saved = max(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdecimal())
    words = f"process {victim} of 2 has died: run the same command again: it goes on from step {saved}"
    # JAX's own log may have lines before and after it.
    assert f"stopped: {words}" in error.splitlines() and error.count("stopped:") == 1
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_failure_of_one_process_is_that_of_all(endless, tmp_path):
    """Only process 0 sees that the work directory is in use."""
    workdir = tmp_path / "run"
    with workdir_lock(workdir):
        started = start_processes(2, "jaxft.train", f"--config={endless}", f"--workdir={workdir}")
        outputs = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [2, 2], outputs
    assert "is in use by another run" in outputs[0][1]
    assert "process 0 of 2 failed (exit code 2): its own message says why" in outputs[1][1]


@pytest.mark.slow
def test_a_process_killed_while_the_others_start(endless, tmp_path):
    """Before the first step: reading, loading, compiling."""
    workdir = tmp_path / "run"
    started = start_processes(2, "jaxft.train", f"--config={endless}", f"--workdir={workdir}")
    wait_for(lambda: (workdir / ".running").exists(), started[0])
    started[1].send_signal(signal.SIGKILL)
    _, error = started[0].communicate(timeout=WITHIN)
    started[1].communicate()
    assert started[0].returncode == 75
    assert "process 1 of 2 has died: run the same command again: it begins anew, no step was saved" in error
