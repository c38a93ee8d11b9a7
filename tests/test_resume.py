"""Stopped and run again is the same run; checkpoints are whole or not taken."""

import asyncio
import contextlib
import errno
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import JsonCheckpointHandler
from runs import config_file, numbers, write_rows

from jaxft.config import Config, Eval, Mesh, Save
from jaxft.data import Data
from jaxft.parallel.mesh import make_mesh
from jaxft.problems import RunInterrupted, UserError
from jaxft.reports.report import write
from jaxft.tasks.classify import Classify
from jaxft.training import loop as module
from jaxft.training.best import Best
from jaxft.training.callback import Callback
from jaxft.training.checkpoint import Checkpoints, KeepBestAndLast
from jaxft.training.fit import fit
from jaxft.training.lock import workdir_lock
from jaxft.tune.partial import Partial


class Killed(Exception):
    pass


def run_until(step, cfg, workdir, monkeypatch):
    """The run, killed right after `step` steps."""
    with monkeypatch.context() as patch:
        plain = module.after_step

        def after_step(run):
            if run.done == step:
                run.checkpoints.wait()
                raise Killed
            plain(run)

        patch.setattr(module, "after_step", after_step)
        with pytest.raises(Killed):
            fit(cfg, str(workdir))


def page(workdir) -> str:
    """The report, made anew without what no run can repeat."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        copy.mkdir()
        for name in ("config.json", "summary.json", "pictures.jsonl"):
            shutil.copy(Path(workdir) / name, copy)
        (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in numbers(workdir)))
        write(copy)
        return (copy / "report.html").read_text()


def test_a_run_that_was_killed_and_run_again_is_the_unbroken_run(resumable, finished_run, tmp_path, monkeypatch):
    # The second time after an evaluation that no checkpoint has seen.
    for step, written in ((3, None), (6, 5), (14, 12)):
        workdir = tmp_path / f"killed-{step}"
        run_until(step, resumable(), workdir, monkeypatch)
        assert written is None or f"Ended at step {written} of 18: Killed" in (workdir / "report.html").read_text()
        fit(resumable(), str(workdir))
        assert numbers(workdir) == numbers(finished_run)
        assert page(workdir) == page(finished_run) and "Confusion matrix" in page(finished_run)
        assert (workdir / "pictures.jsonl").read_text() == (finished_run / "pictures.jsonl").read_text()
        weights = [folder / "model" / "model.safetensors" for folder in (workdir, finished_run)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_killed_twice_and_before_the_first_save(resumable, finished_run, tmp_path, monkeypatch):
    workdir = tmp_path / "killed"
    for step in (1, 5, 6):
        run_until(step, resumable(), workdir, monkeypatch)
    fit(resumable(), str(workdir))
    assert numbers(workdir) == numbers(finished_run)


# A step that is saved only now, and one that is saved anyway.
@pytest.mark.parametrize(
    "step, number, code", [(5, signal.SIGTERM, 75), (6, signal.SIGTERM, 75), (5, signal.SIGINT, 130)]
)
def test_a_run_that_is_asked_to_end(resumable, finished_run, tmp_path, monkeypatch, step, number, code):
    workdir, plain, former = tmp_path / "asked", module.after_step, signal.getsignal(number)

    def after_step(run):
        if run.done == step:
            os.kill(os.getpid(), number)
        plain(run)

    with monkeypatch.context() as patch:
        patch.setattr(module, "after_step", after_step)
        with pytest.raises(RunInterrupted, match=f"step {step} is saved: the same command goes on") as stopped:
            fit(resumable(), str(workdir))
    assert stopped.value.exit_code == code and signal.getsignal(number) == former
    assert (workdir / "checkpoints" / str(step)).is_dir()
    assert f"asked to end ({'SIGTERM' if code == 75 else 'Ctrl-C'})" in (workdir / "report.html").read_text()
    fit(resumable(), str(workdir))
    assert numbers(workdir) == numbers(finished_run) and page(workdir) == page(finished_run)
    weights = [folder / "model" / "model.safetensors" for folder in (workdir, finished_run)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_finished_run_is_left_alone(resumable, finished_run):
    def contents():
        files = (file for file in finished_run.rglob("*") if file.is_file() and "checkpoints" not in file.parts)
        return {file: file.read_bytes() for file in files}

    before = contents()
    results = fit(resumable(), str(finished_run)).metrics
    assert before == contents()
    assert results["val"]["loss"] == numbers(finished_run)[-1]["loss"]


def train(cfg, folder, workdir, **environment) -> subprocess.CompletedProcess:
    """The command, of a configuration that is written into `folder`."""
    line = [sys.executable, "-m", "jaxft.train", f"--config={config_file(cfg, folder)}", f"--workdir={workdir}"]
    # One device, and programs made as here: other loops differ in the last bit.
    flags = {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")}
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | flags | environment)
    assert done.returncode == 0, done.stderr
    return done


def test_another_process_another_day(resumable, finished_run, tmp_path, monkeypatch):
    """The second half runs in a new process, by the command."""
    cfg = resumable()
    run_until(9, cfg, tmp_path / "killed", monkeypatch)
    done = train(cfg, tmp_path, tmp_path / "killed")
    assert "resumed from the checkpoint of step 8" in done.stderr
    assert numbers(tmp_path / "killed") == numbers(finished_run)


def test_a_second_start_compiles_nothing(resumable, tmp_path, monkeypatch):
    """Another run of the same shapes finds every program, down to the smallest, where the first has left it."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    compiled, found = tmp_path / "jaxft" / "compiled", []
    for name in ("first", "second"):
        train(resumable(), tmp_path, tmp_path / name, XDG_CACHE_HOME=str(tmp_path))
        found.append({file.name for file in compiled.iterdir() if file.name.endswith("-cache")})
    assert found[0] == found[1] and any("batch_gradient" in name for name in found[0])


def test_saving_compiles_nothing(tmp_path):
    """Not a slice for each device's share of each array, as Orbax by itself: eight devices saved 24 shapes in 8 s."""
    mesh, compiled = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}), []
    specs = {"whole": P(), "parted": P("fsdp", "tensor"), "rows": P("fsdp")}
    state = {name: jax.device_put(np.ones((16, 40), np.float32), NamedSharding(mesh, p)) for name, p in specs.items()}
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **more: compiled.append(more.get("fun_name")) if "backend_compile" in event else None
    )
    checkpoints = Checkpoints(tmp_path, 2, Best())
    checkpoints.save(1, state, {"note": 1}, {})
    checkpoints.wait()
    assert compiled == []
    places = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    found, run = checkpoints.restore(1, places)
    checkpoints.close()
    assert run == {"note": 1} and all(found[name].sharding == state[name].sharding for name in specs)
    assert all(np.array_equal(found[name], state[name]) for name in specs)


def test_another_run_in_the_same_directory_is_refused(resumable, finished_run):
    with pytest.raises(UserError) as caught:
        fit(resumable(seed=1, layer_decay=0.9), str(finished_run))
    assert len(caught.value.problems) == 2
    assert "config.seed is 1" in caught.value.problems[0] and "another --workdir" in caught.value.problems[0]
    fit(resumable(save=Save(every=5), mesh=Mesh(data=1)), str(finished_run))  # these may change


def test_two_runs_in_one_directory(resumable, tmp_path, monkeypatch):
    """The second is refused as long as the first one runs, and leaves it alone."""
    workdir, plain = tmp_path / "run", module.after_step

    def after_step(run):
        if run.done == 3:
            with pytest.raises(UserError, match="is in use by another run"), workdir_lock(workdir):
                pass
        plain(run)

    with monkeypatch.context() as patch:
        patch.setattr(module, "after_step", after_step)
        fit(resumable(), str(workdir))
    with workdir_lock(workdir):
        pass


def test_directories_that_cannot_be_used(resumable, tmp_path):
    """Said before the first step, not after the last."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be a work directory .*: use another --workdir"):
        fit(resumable(), str(tmp_path / "file"))
    (tmp_path / "run" / "model" / "notes").mkdir(parents=True)
    with pytest.raises(UserError, match="holds notes, which would be lost"):
        fit(resumable(), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_directory_without_locks(tmp_path, monkeypatch, caplog):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with workdir_lock(tmp_path):
        assert "cannot be locked" in caplog.text


def test_damaged_checkpoints_are_set_aside(resumable, finished_run, tmp_path, caplog):
    """Truncated, without metadata, empty: the newest one that can be read is taken, and the run ends as it did."""
    steps = finished_run / "checkpoints"
    kept = sorted(int(folder.name) for folder in steps.iterdir())
    assert kept == [14, 16, 18]
    shutil.rmtree(finished_run / "model")
    largest = max((file for file in (steps / "18").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    for file in (steps / "16").rglob("_*METADATA"):
        file.unlink()
    (steps / "16" / "run" / "metadata").unlink(missing_ok=True)
    (steps / "1000").mkdir()
    (steps / "1001.tmp").mkdir()
    with caplog.at_level(logging.INFO, "jaxft"):
        fit(resumable(), str(finished_run))
    assert "checkpoint 1000 cannot be read" in caplog.text and "checkpoint 18 cannot be read" in caplog.text
    assert numbers(finished_run) == numbers(tmp_path / "whole")
    gc.collect()  # what Orbax left waiting beside the failed reads would speak up here
    assert {"18.unreadable", "1000.unreadable", "1001.tmp", "18"} <= {folder.name for folder in steps.iterdir()}


def test_only_what_trains_is_saved(tiny_bert, tmp_path, one_device):
    train = write_rows(tmp_path / "train.csv", 8)
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(),
        data=Data(path=train),
        lr=1e-3,
        batch=4,
        steps=2,
        max_len=32,
        tune=Partial(train=("head",)),
    )
    fit(cfg, str(tmp_path / "run"))
    saved = (tmp_path / "run" / "checkpoints" / "2" / "state" / "_METADATA").read_text()
    assert "head.out.kernel" in saved
    assert "layers." not in saved and "embed." not in saved


def test_which_checkpoints_stay():
    """CASES P41, and the best one by a metric that should fall."""
    scores = [0.5, 0.9, 0.7, 0.6, 0.8]
    policy = KeepBestAndLast(2, Best("val/accuracy"))
    falling = KeepBestAndLast(2, Best("val/loss", "min"))
    single = KeepBestAndLast(1, Best("val/accuracy"))
    assert folders(policy, scores) == [{1}, {1, 2}, {2, 3}, {2, 4}, {2, 5}]
    assert folders(falling, scores, "val/loss") == [{1}, {1, 2}, {1, 3}, {1, 4}, {1, 5}]
    assert folders(single, scores) == [{1}, {2}, {2, 3}, {2, 4}, {2, 5}]
    assert folders(KeepBestAndLast(2, Best()), scores) == [{1}, {1, 2}, {2, 3}, {3, 4}, {4, 5}]


def folders(policy, scores, name="val/accuracy") -> list[set[int]]:
    kept, history = [], []
    for step, score in enumerate(scores, 1):
        kept.append(SimpleNamespace(step=step, metrics={name: score}))
        stays = policy.should_preserve(kept)
        kept = [info for info, stay in zip(kept, stays, strict=True) if stay]
        history.append({info.step for info in kept})
    return history


def test_the_best_checkpoint_stays_and_is_exported(resumable, tmp_path, monkeypatch):
    """On disk, with Orbax, in numeric order, across a restart; `model/` and the returned metrics are the best's."""
    save = Save(every=3, keep=2, best="val/loss", mode="max")  # the largest, which is not the last one's
    cfg = resumable(save=save, evals={"val": Eval(data=resumable().data, every=3)})
    run_until(10, cfg, tmp_path / "run", monkeypatch)
    results = fit(cfg, str(tmp_path / "run")).metrics
    lines = [line for line in numbers(tmp_path / "run") if line["split"] == "val"]
    best = max(lines, key=lambda line: line["loss"])
    assert best["step"] < 9 and results["val"]["loss"] == best["loss"]
    assert {int(folder.name) for folder in (tmp_path / "run" / "checkpoints").iterdir()} == {best["step"], 18}
    assert f"{best['loss']:.4f}" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_exported_weights_are_the_trained_ones(resumable, finished_run):
    import torch
    import transformers

    import jaxft

    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(finished_run / "model").eval()
    assert theirs.config.id2label == {0: "neg", 1: "neu", 2: "pos"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished_run / "model")
    batch = tokenizer(["the cat sat", "a good film with a dog"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**batch).logits.numpy()
    found = jaxft.load(str(finished_run / "model"))(**{name: tensor.numpy() for name, tensor in batch.items()}).logits
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])  # in the first and in the second set, of three batches each
@pytest.mark.parametrize("last", [False, True])
def test_a_run_that_is_asked_to_end_while_it_evaluates(resumable, tmp_path, monkeypatch, batch, last):
    """It does not wait for the evaluation's end; the next run makes up for it, the ranking of checkpoints included."""
    val = Eval(data=resumable().data, every=6, batch=8)
    cfg = resumable(evals={"val": val, "test": val}, save=Save(every=6, keep=3, best="test/loss"))
    fit(cfg, str(tmp_path / "whole"))
    workdir, plain = tmp_path / "asked", module.run_eval

    def run_eval(run, name):
        if run.done == (18 if last else 6):
            between, calls = type(run.stop).between, []

            def asked(batches):
                for one in between(run.stop, batches):
                    calls.append(one)
                    if len(calls) == (batch - 1) % 3 + 1 and name == ("val" if batch <= 3 else "test"):
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield one

            run.stop.between = asked
        return plain(run, name)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_eval", run_eval)
        with pytest.raises(RunInterrupted, match=f"step {18 if last else 6} is saved"):
            fit(cfg, str(workdir))
    assert len(numbers(workdir)) < len(numbers(tmp_path / "whole"))
    results = fit(cfg, str(workdir)).metrics
    assert numbers(workdir) == numbers(tmp_path / "whole")
    card = [(folder / "model" / "README.md").read_text() for folder in (workdir, tmp_path / "whole")]
    assert card[0] == card[1] and results.keys() == {"val", "test"}


def test_a_loop_says_whether_steps_would_be_lost(resumable, tmp_path, monkeypatch):
    """Not before its first step: then a signal does not wait for compilation."""
    plain, said = module.stoppable, []

    def stoppable(unsaved):
        said.append(unsaved())
        monkeypatch.setattr(Callback, "on_step", lambda self, step, metrics: said.append(unsaved()))
        return plain(unsaved)

    monkeypatch.setattr(module, "stoppable", stoppable)
    result = fit(resumable(evals={}), str(tmp_path), callbacks=[Callback()])
    assert said == [False] + [True] * result.history[-1]["step"]


def test_a_record_is_that_of_its_step(tmp_path, monkeypatch):
    """Even where Orbax writes it after the next step has changed the lists of the run."""
    changed, write = threading.Event(), JsonCheckpointHandler._save_fn

    async def late(self, record, directory):
        assert await asyncio.to_thread(changed.wait, 30)
        await write(self, record, directory)

    monkeypatch.setattr(JsonCheckpointHandler, "_save_fn", late)
    with contextlib.closing(Checkpoints(tmp_path, 1, Best())) as checkpoints:
        record = {"pending": [{"tokens": 3}], "due": ["val"]}
        checkpoints.save(1, {"x": jnp.ones(2)}, record, {})
        record["pending"].append({"tokens": 4})
        record["due"].clear()
        changed.set()
        checkpoints.wait()
        assert checkpoints.record(1) == {"pending": [{"tokens": 3}], "due": ["val"]}
