"""What a run's devices decide: over how many its weights are split, its dtype, the size of its tiles."""

import logging
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

import jaxft
from jaxft.config import Config, Mesh
from jaxft.data.source import Data
from jaxft.models import params as model_params
from jaxft.models.layers.kernels.tiles import tiles
from jaxft.optim.adafactor import Adafactor
from jaxft.parallel.memory import device_memory, split_over
from jaxft.parallel.mesh import AXES, platform
from jaxft.tasks.classify import Classify
from jaxft.training import layout
from jaxft.training.compiled import compiled_steps
from jaxft.training.setup import build, compute_dtype
from jaxft.tune.partial import Partial

GIB = 2**30


def test_replicas_where_they_fit():
    def floor(devices):
        return 120 * GIB // devices

    assert split_over(floor, 32, 240 * GIB) == (
        1,
        "whole on each device: they take 120.00 GiB of a device's 240.00 GiB",
    )
    count, why = split_over(floor, 32, int(15.75 * GIB))
    assert count == 32 and "split over 32 devices, 3.75 GiB on each: whole they would take 120.00 GiB of" in why
    assert split_over(floor, 32, 200 * GIB)[0] == 32, "activations need room as well"
    assert split_over(floor, 1, GIB)[0] == 1 and split_over(floor, 8, None)[0] == 1


@pytest.mark.parametrize("optim", [None, Adafactor()], ids=["adamw", "adafactor"])
def test_the_default_mesh(optim, tiny_bert, tmp_path, monkeypatch, caplog):
    """The floor is what the state of a run and its gradients hold; what is said has its numbers."""
    (tmp_path / "rows.csv").write_text("text,label\n" + "a good film,a\nthe cat,b\n" * 8)
    more = {"tune": Partial(last_layers=1), "dtype": "bfloat16"} if optim else {}
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(),
        data=Data(path=str(tmp_path / "rows.csv")),
        lr=1e-3,
        batch=8,
        steps=1,
        max_len=32,
        **({"optim": optim} if optim else {}),
        **more,
    )
    whole = build(cfg)
    assert dict(whole.mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    monkeypatch.setattr(layout, "device_memory", lambda devices: 1.9 * floor_of(whole))
    with caplog.at_level(logging.INFO, "jaxft"):
        split = build(cfg)
    assert dict(split.mesh.shape) == {"data": 1, "fsdp": 8, "tensor": 1}
    assert "split over 8 devices, 0.00 GiB on each: whole they would take 0.00 GiB" in caplog.text
    for built in (whole, split):
        found = layout.floor_bytes(built.cfg, built.model, built.trained, built.mesh)
        assert found == pytest.approx(floor_of(built), rel=0.001)  # but for the state's two counters
    assert floor_of(split) < 0.3 * floor_of(whole)
    kept = build(replace(cfg, mesh=Mesh(fsdp=2)))
    assert dict(kept.mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}


def floor_of(built) -> int:
    state = compiled_steps(built, 1).abstract_state()
    trained = sum(map(bytes_held, state.params.values()))
    places, known = model_params.shardings(built.model, built.mesh), model_params.variables(built.model)
    frozen = [
        jax.ShapeDtypeStruct(model_params.shape(v), built.dtype_of(path), sharding=places[path])
        for path, v in known.items()
        if path not in built.trained
    ]
    return 2 * trained + sum(map(bytes_held, jax.tree.leaves(state.opt))) + sum(map(bytes_held, frozen))


def bytes_held(x) -> int:
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def test_a_loaded_model_is_split_where_it_does_not_fit(tiny_bert, monkeypatch):
    whole = jaxft.load(str(tiny_bert), head="masked-lm")
    monkeypatch.setattr(model_params, "device_memory", lambda devices: 1024)
    split = jaxft.load(str(tiny_bert), head="masked-lm")
    assert whole.mesh.shape["fsdp"] == 1 and split.mesh.shape["fsdp"] == 8
    ids = np.arange(5, 21).reshape(8, 2)
    np.testing.assert_allclose(split(ids).logits, whole(ids).logits, rtol=0, atol=1e-5)


class Chip:
    platform, device_kind = "tpu", "TPU v5 lite"


def test_memory_of_devices_that_are_elsewhere():
    assert device_memory([Chip()] * 32) == 15.75 * GIB
    Unknown = type("Unknown", (Chip,), {"device_kind": "TPU v9"})
    assert device_memory([Unknown()]) is None
    assert GIB / 8 < device_memory(jax.devices()) < 2**45


def test_a_program_is_planned_for_the_devices_of_its_mesh():
    """Not for those of the machine that compiles it."""
    there = AbstractMesh((1, 4, 1), AXES, abstract_device=AbstractDevice("TPU v5 lite", None, "tpu"))
    here = tiles(8, 4, 2**24), platform()
    with jax.sharding.use_abstract_mesh(there):
        assert (here, (tiles(8, 4, 2**24), platform())) == (((8, 4), "cpu"), ((1, 1), "tpu"))
    cfg = Config(model="m", task=None, data=None, lr=1.0, batch=1, steps=1)
    assert compute_dtype(cfg, "tpu") == jnp.bfloat16 and compute_dtype(cfg, "cpu") == jnp.float32
