"""AdamW8bit beside bitsandbytes: codes and scales to the last bit, and a run of updates."""

import dataclasses
import shutil

import bitsandbytes
import bitsandbytes.functional as functional
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from conftest import random_like
from runs import numbers, write_rows

from jaxft.config import Config, Mesh, Save
from jaxft.data import Data, Pad
from jaxft.optim.adamw import AdamW
from jaxft.optim.adamw8bit import AdamW8bit, dequantize, quantize
from jaxft.optim.parameters import Parameter
from jaxft.tasks.classify import Classify
from jaxft.training.compiled import compiled_steps
from jaxft.training.fit import fit
from jaxft.training.setup import build

# The tests' own setting leaves out what compiled programs have, here and in PyTorch: product and sum in one operation.
AS_IN_RUNS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
SHAPES = {"wide": (70, 100), "narrow": (33, 129), "small": (7, 13)}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("size", [255, 256, 5000, 100_001])
def test_codes_are_theirs(signed, size):
    numbers = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    numbers = numbers if signed else numbers**2
    numbers[256:512] = 0
    table = functional.create_dynamic_map(signed=signed)
    theirs, state = functional.quantize_blockwise(torch.tensor(numbers), code=table, blocksize=256)
    codes, absmax = jax.jit(quantize, static_argnums=(1, 2))(numbers, False, signed)
    np.testing.assert_array_equal(codes, theirs.numpy())
    np.testing.assert_array_equal(absmax, state.absmax.numpy())
    back = jax.jit(dequantize, static_argnums=2)(codes, absmax, signed)
    np.testing.assert_array_equal(back, functional.dequantize_blockwise(theirs, state).numpy())


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def updates_of(how, params, parameters, gradients):
    """(parameters, state) after updates at the rate 1e-3, one for each of `gradients`."""
    tx = how.make(optax.constant_schedule(1e-3), parameters)

    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, compiler_options=AS_IN_RUNS)
    params, state = jax.tree.map(jnp.asarray, params), tx.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params, state[0]


def test_thirty_updates_beside_bitsandbytes(one_thread):
    """The moments to the last bit; weights but for the order in which float32 rounds the rate and the decay."""
    params, parameters = random_like(SHAPES), {name: Parameter("kernel", False) for name in SHAPES}
    gradients = [random_like(SHAPES, seed=number + 1, scale=0.1) for number in range(30)]
    ours, state = updates_of(AdamW8bit(decay=0.1), params, parameters, gradients)
    theirs = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in params.items()}
    optimizer = bitsandbytes.optim.AdamW8bit(theirs.values(), lr=1e-3, weight_decay=0.1)
    for gradient in gradients:
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradient[name])
        optimizer.step()
    for name, parameter in theirs.items():
        np.testing.assert_allclose(ours[name], parameter.detach().numpy(), rtol=0, atol=1e-5)
        found = optimizer.state[parameter]
        kind = "float32" if name == "small" else "uint8"
        assert state.mean[name].dtype == state.square[name].dtype == kind
        if kind == "float32":
            np.testing.assert_allclose(state.mean[name], found["state1"].numpy(), rtol=0, atol=1e-7)
            continue
        np.testing.assert_array_equal(state.mean[name], found["state1"].numpy())
        np.testing.assert_array_equal(state.square[name], found["state2"].numpy())
        np.testing.assert_array_equal(state.mean_absmax[name], found["absmax1"].numpy())
        np.testing.assert_array_equal(state.square_absmax[name], found["absmax2"].numpy())


def test_stacked_layers_are_those_layers():
    shapes = {"a": (5000,), "b": (5000,)}
    apart = random_like(shapes)
    gradients = [random_like(shapes, seed=number + 1) for number in range(3)]
    stacked = [{"both": np.stack([gradient["a"], gradient["b"]])} for gradient in gradients]
    one, _ = updates_of(AdamW8bit(), apart, {name: Parameter("kernel", False) for name in shapes}, gradients)
    whole = {"both": np.stack([apart["a"], apart["b"]])}
    two, _ = updates_of(AdamW8bit(), whole, {"both": Parameter("kernel", True)}, stacked)
    np.testing.assert_array_equal(two["both"], np.stack([one["a"], one["b"]]))


def test_moments_take_two_bytes_a_parameter():
    params = {"kernel": np.zeros((2, 512, 1024), np.float32)}
    tx = AdamW8bit().make(optax.constant_schedule(1e-3), {"kernel": Parameter("kernel", True)})
    state = jax.eval_shape(tx.init, params)
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) < 2.04 * 2**20
    plain = AdamW().make(optax.constant_schedule(1e-3), {"kernel": Parameter("kernel", True)})
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(plain.init, params))) > 8 * 2**20


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_bert):
    """(configuration, work directory)"""
    folder = tmp_path_factory.mktemp("adamw8bit")
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(labels=("neg", "neu", "pos")),
        data=Data(path=write_rows(folder / "train.csv", 40)),
        optim=AdamW8bit(min_8bit_size=64),
        lr=1e-2,
        batch=8,
        steps=4,
        batching=Pad(buckets=(32,)),
        save=Save(every=2, keep=3),
        log_every=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda *backend: 1)
        fit(cfg, folder / "run")
    return cfg, folder / "run"


def test_a_run_resumes_to_the_last_bit(run, tmp_path, one_device):
    cfg, workdir = run
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "4")
    shutil.rmtree(tmp_path / "again" / "model")
    fit(cfg, tmp_path / "again")
    assert numbers(tmp_path / "again") == numbers(workdir)
    weights = [path / "model" / "model.safetensors" for path in (tmp_path / "again", workdir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_eight_devices_are_one(run, tmp_path, monkeypatch):
    """Moments are sharded as their parameters are."""
    plain = dataclasses.replace(run[0], dropout=0.0, steps=3)
    sharded = dataclasses.replace(plain, mesh=Mesh(data=2, fsdp=2, tensor=2))
    built = build(sharded, [])
    places = compiled_steps(built, 3).placements
    path = next(path for path in built.trained if path.endswith("mlp.up.kernel"))
    moments = [value for key, value in jax.tree_util.tree_leaves_with_path(places.opt) if path in str(key)]
    assert [place == places.params[path] for place in moments] == [True, True, False, False]
    fit(sharded, tmp_path / "eight")
    monkeypatch.setattr(jax, "device_count", lambda *backend: 1)
    fit(plain, tmp_path / "one")
    one, eight = ([row["loss"] for row in numbers(tmp_path / name)] for name in ("one", "eight"))
    np.testing.assert_allclose(one, eight, rtol=0, atol=1e-3)  # a sum's last bit can move a moment by a whole code
