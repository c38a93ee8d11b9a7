"""One run, many ways to compute it: devices, micro-batches, packing, remat. The losses are the same."""

import json
import logging
import re

import jax
import numpy as np
import pytest
from runs import write_rows

from jaxft.config import Config, Eval, Mesh, Save
from jaxft.data import Data, Pack, Pad
from jaxft.models.layers.kernels.tiles import TILE
from jaxft.tasks.classify import Classify
from jaxft.tasks.lm import CausalLM
from jaxft.tasks.mlm import MaskedLM
from jaxft.training.fit import fit
from jaxft.training.saved_run import evaluate_model
from jaxft.tune.partial import Partial

TASKS = {
    "classify": ("bert", Classify()),
    "masked-lm": ("bert", MaskedLM(rate=0.3)),
    "causal-lm": ("llama", CausalLM()),
}
MESHES = [(8, 1, 1), (4, 2, 1), (1, 8, 1), (1, 2, 4), (1, 1, 8)]  # others are in the tests below


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "train.csv", 61)


@pytest.fixture(scope="module")
def losses(families, data, tmp_path_factory):
    """A function that trains and returns the loss of each step; the same run is not done twice."""
    known = {}

    def run(name="classify", **more) -> list[float]:
        key = name, repr(more), jax.device_count(), TILE["cpu"]
        if key not in known:
            known[key] = trained(name, **more)
        return known[key]

    def trained(name, **more) -> list[float]:
        family, task = TASKS[name]
        workdir = tmp_path_factory.mktemp("run")
        options = {"batching": Pad(window=1), "dropout": 0.0, "steps": 10, "batch": 16, "save": Save(every=10)} | more
        cfg = Config(
            model=str(families[family]), task=task, data=Data(path=data), lr=3e-3, max_len=32, log_every=1, **options
        )
        fit(cfg, str(workdir))
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, cfg.steps + 1))
        return [line["loss"] for line in lines]

    return run


def alone(monkeypatch, function, *args, **more):
    """The function's result on a single device."""
    with monkeypatch.context() as patch:
        patch.setattr(jax, "device_count", lambda *backend: 1)
        return function(*args, **more)


def same(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_devices_micro_batches_and_packing(losses, name, monkeypatch):
    expected = alone(monkeypatch, losses, name)
    assert max(expected) - min(expected) > 1e-3
    same(alone(monkeypatch, losses, name, micro_batches=4), expected)
    same(alone(monkeypatch, losses, name, batching=Pack(length=64)), expected)
    same(losses(name, mesh=Mesh(data=2, fsdp=2, tensor=2)), expected)
    same(losses(name, mesh=Mesh(data=2, fsdp=1, tensor=4), batching=Pack(length=64), micro_batches=2), expected)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_every_mesh(losses, sizes, monkeypatch):
    expected = alone(monkeypatch, losses)
    same(losses(mesh=Mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])), expected)


def test_dropout_draws_the_same_masks_on_any_number_of_devices(losses, monkeypatch):
    plain = alone(monkeypatch, losses, steps=4)
    expected = alone(monkeypatch, losses, steps=4, dropout=0.2)
    assert np.abs(np.subtract(plain, expected)).max() > 1e-3
    same(losses(steps=4, dropout=0.2, mesh=Mesh(data=2, fsdp=2, tensor=2)), expected)


def test_remat_and_unrolling_change_nothing(losses, monkeypatch):
    expected = alone(monkeypatch, losses, steps=3, dropout=0.2)
    for more in ({"remat": "full"}, {"remat": "dots"}, {"scan": 0}):
        same(alone(monkeypatch, losses, steps=3, dropout=0.2, **more), expected)


def test_tiles_of_attention_change_nothing(losses, monkeypatch):
    """On one device and on eight, which have a share of every tile each."""
    expected = alone(monkeypatch, losses, steps=3, dropout=0.2)
    monkeypatch.setitem(TILE, "cpu", 1)
    same(alone(monkeypatch, losses, steps=3, dropout=0.2), expected)
    same(losses(steps=3, dropout=0.2, mesh=Mesh(data=2, fsdp=4)), expected)


def test_a_stack_that_is_cut_draws_the_same_masks(losses, monkeypatch):
    """The first loss does not depend on what trains."""
    full = alone(monkeypatch, losses, steps=2, dropout=0.2)
    same(alone(monkeypatch, losses, steps=2, dropout=0.2, tune=Partial(last_layers=1))[0], full[0])


def test_every_row_is_evaluated_once(tiny_classifier, tmp_path, monkeypatch):
    """Any number of rows, in batches that they do not fill, on one device and on eight."""
    for count in (1, 3, 9, 10):
        test = Data(path=write_rows(tmp_path / f"test-{count}.csv", count, seed=9))

        def scores(batch, test=test):
            cfg = Config(
                model=str(tiny_classifier),
                task=Classify(),
                data=test,
                lr=1.0,
                steps=1,
                batch=8,
                max_len=32,
                evals={"val": Eval(data=test, batch=batch)},
                batching=Pad(buckets=(32,)),
            )
            return evaluate_model(cfg, str(tiny_classifier))["val"]

        expected = alone(monkeypatch, scores, 1)
        for found in (alone(monkeypatch, scores, 4), scores(8)):
            assert found.keys() == expected.keys()
            same(list(found.values()), list(expected.values()))


def test_one_program_for_each_shape(losses, families, tmp_path, caplog, monkeypatch):
    """100 steps of texts of any length: at most as many programs as buckets, and no traffic between log points."""
    monkeypatch.setattr(jax, "device_count", lambda *backend: 1)
    data = write_rows(tmp_path / "many.csv", 200)
    cfg = Config(
        model=str(families["bert"]),
        task=Classify(),
        data=Data(path=data),
        lr=1e-3,
        steps=100,
        batch=8,
        max_len=24,
        batching=Pad(buckets=(8, 16, 24), window=4),
        log_every=25,
        save=Save(every=100),
    )
    live = []
    from jaxft.training import loop as module

    plain = module.after_step

    def after_step(run):
        if run.done % 25 == 0:
            plain(run)
            live.append(len(jax.live_arrays()))
        else:
            with jax.transfer_guard_device_to_host("disallow"):
                plain(run)

    monkeypatch.setattr(module, "after_step", after_step)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **more: compiled.append(more.get("fun_name")) if "backend_compile" in event else None
    )
    with caplog.at_level(logging.INFO):
        fit(cfg, str(tmp_path / "run"))
    shapes = re.findall(r"compiled the training step for (\d+) rows of (\d+)", caplog.text)
    assert len(set(shapes)) == len(shapes) <= 3
    assert compiled.count("jit(batch_gradient)") == len(shapes) and compiled.count("jit(update)") == 1
    assert live[0] == live[1] == live[2]  # the fourth is during a save, which holds copies
