"""Rows of embedding tables: their values, and gradients in bfloat16 that are float32's."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import IDS, MESHES, table_moves
from zoo import make

import jaxft
from jaxft.models.layers.lookup import lookup
from jaxft.models.model import Model
from jaxft.models.params import bind
from jaxft.parallel.mesh import make_mesh, shard, sharding


@pytest.mark.parametrize("sizes", [{"data": 1}, *MESHES], ids=["one device", *IDS])
def test_a_token_that_stands_often(sizes):
    """Its gradient in bfloat16 is the sum of all, where a sum of ones in bfloat16 would end at 256."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((24, 16)).astype(np.float32)
    numbers = np.where(np.arange(8192) % 8, 9, rng.integers(0, 24, 8192)).reshape(16, 512)

    def looked_up(table, numbers):
        return shard(lookup(table, numbers, ("vocab", "embed"), jnp.bfloat16), "batch", None, None)

    def total(table, numbers):
        return jnp.sum(looked_up(table, numbers).astype(jnp.float32))

    devices = jax.devices() if math.prod(sizes.values()) > 1 else jax.devices()[:1]
    mesh = make_mesh(sizes, devices)
    placed = jax.device_put(table, sharding(("vocab", "embed"), table.shape, mesh))
    with jax.set_mesh(mesh):
        found = jax.jit(looked_up)(placed, numbers)
        gradient = jax.jit(jax.grad(total)).lower(placed, numbers).compile()
        slope = gradient(placed, numbers)
    np.testing.assert_array_equal(found, table[numbers].astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16 and slope.dtype == jnp.float32
    np.testing.assert_array_equal(slope, np.repeat(np.bincount(numbers.ravel(), minlength=24)[:, None], 16, 1))
    own = 24 // sizes.get("tensor", 1), 16 // sizes.get("fsdp", 1)
    assert table_moves(gradient.as_text(), {(own[0], 16), own}) == Counter({"all-reduce": sizes.get("data", 1) > 1})


# A family of each kind: tables of tokens, positions and types; biases of experts; two sides; vectors of distances.
KINDS = [("bert", "masked-lm"), ("gpt_oss", "causal-lm"), ("t5", "seq2seq-lm"), ("deberta_v2", "masked-lm")]


@pytest.mark.parametrize("family, head", KINDS)
def test_gradients_in_bfloat16(family, head, tmp_path, one_device):
    """Those of float32, within what rounding explains, of a batch in which one token stands 3,700 times."""
    make(family, head, tmp_path)
    loaded, rng = jaxft.load(str(tmp_path)), np.random.default_rng(0)
    tokens = np.where(rng.random((64, 64)) < 0.9, 7, rng.integers(5, 100, (64, 64))).astype(np.int32)
    places = np.broadcast_to(np.arange(64, dtype=np.int32), tokens.shape)
    batch = {"tokens": tokens, "segments": np.ones_like(tokens), "positions": places, "types": np.int32(places > 9)}
    batch |= {f"decoder_{name}": values for name, values in batch.items()} if head == "seq2seq-lm" else {}
    targets, weights = rng.integers(5, 100, tokens.shape), np.full(tokens.shape, 1 / tokens.size, np.float32)

    def gradient(dtype):
        model = Model(loaded.arch.spec, loaded.arch.head, dtype=dtype)
        return jax.jit(jax.grad(lambda p: bind(model, p)(batch).head_output.cross_entropy(targets, weights)[0]))(
            loaded.params
        )

    found, expected = gradient("bfloat16"), gradient("float32")
    largest = max(np.linalg.norm(slope) for slope in expected.values())
    errors = {name: np.linalg.norm(found[name] - slope) / largest for name, slope in expected.items()}
    # Relative to the largest tensor's gradient: a product's result has 8 bits, and a token passes through a dozen.
    assert max(errors.values()) < 0.02, errors
