"""Setups of a few rows in memory, random parameters and random batches, for tests of single steps."""

import jax.numpy as jnp
import numpy as np
from conftest import rows_of

from jaxft.config import Config, Mesh
from jaxft.config.component import config
from jaxft.models.params import shape, variables
from jaxft.optim.schedule import Constant
from jaxft.optim.sgd import SGD
from jaxft.training.setup import build

LABELS = ("a", "b", "c")


@config
class Memory:
    """A source in memory."""

    def open(self):
        texts = ("the cat sat on the mat", "a good film with a dull story", "the dog sat")
        return rows_of([{"text": text, "label": label} for text, label in zip(texts, LABELS, strict=True)])


def built_of(directory, task, **more):
    values = {"lr": 0.1, "batch": 2, "steps": 4, "optim": SGD(), "schedule": Constant(), "clip": None, "dropout": 0.0}
    values |= {"mesh": Mesh(data=1), "max_len": 32, "init": "backbone", **more}
    return build(Config(model=str(directory), task=task, data=Memory(), **values))


def random_params(built):
    """(trained, frozen) as `load` would give them."""
    rng = np.random.default_rng(2)
    params = {
        path: jnp.array(rng.normal(0, 0.2, shape(variable)), built.dtype_of(path))
        for path, variable in variables(built.model).items()
    }
    return {path: params.pop(path) for path in built.trained}, params


def random_batch(rows, length, vocabulary, per_token, seed=0):
    """Padded rows of several lengths; per token as for causal language models, else one slot a row."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, length + 1, rows)
    segments = (np.arange(length) < lengths[:, None]).astype(np.int32)
    tokens = rng.integers(5, vocabulary, (rows, length)).astype(np.int32) * segments
    positions = np.arange(length, dtype=np.int32) * segments
    batch = {"tokens": tokens, "segments": segments, "positions": positions}
    if per_token:
        weights = np.roll(segments, -1, 1).astype(np.float32)
        weights[:, -1] = 0
        return batch | {"targets": np.roll(tokens, -1, 1), "weights": weights, "bytes": np.full_like(tokens, 3)}
    targets = rng.integers(0, 3, (rows, 1)).astype(np.int32)
    return batch | {"at": np.zeros((rows, 1), np.int32), "targets": targets, "weights": np.ones((rows, 1), np.float32)}
