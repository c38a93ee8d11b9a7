"""The gradient of a step that holds few examples, beside that of its filled rows alone."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxft.config import Config, Mesh
from jaxft.data import Data, Pack, Pad
from jaxft.tasks.contrastive_embedding import ContrastiveEmbedding
from jaxft.training.run import train_batches
from jaxft.training.setup import build
from jaxft.training.step import batch_gradient

ROWS = 9  # of which the only step has two


def check_short_step(model, task, file, init="backbone", **more):
    """The only step's loss and gradient, of arrays that are mostly empty, beside those of its filled rows alone."""
    cfg = {"lr": 1e-3, "batch": 8, "epochs": 2 / ROWS, "max_len": 32, "dropout": 0.0, "dtype": "float32"}
    cfg |= {"mesh": Mesh(data=1), "init": init, "batching": Pad(buckets=(32,))} | more
    made = build(Config(model=str(model), task=task, data=Data(path=file), **cfg))
    batches = train_batches(made)
    examples = len(batches.examples(0))
    assert len(batches) == 1 and 2 <= examples <= 4
    batch = batches[0]
    batch.pop("index")
    filled = (batch["segments"] > 0).any(1)
    assert 0 < filled.sum() <= examples and (isinstance(made.cfg.batching, Pack) or len(filled) == 8)
    trained, frozen, _ = made.load()
    batch = jax.device_get(made.task.prepare_batch(batch))  # which sees the whole batch

    def gradient(batch, pieces):
        fixed = {"loss": made.loss, "micro_batches": pieces, "seed": 0}
        return jax.device_get(jax.jit(partial(batch_gradient, **fixed))(trained, 0, frozen, batch))

    if isinstance(task, ContrastiveEmbedding) or isinstance(made.cfg.batching, Pack):  # whose examples meet
        wanted, pieces = gradient({key: values[filled] for key, values in batch.items()}, 1), 1
    else:
        rows = [{key: values[row : row + 1] for key, values in batch.items()} for row in np.flatnonzero(filled)]
        wanted, pieces = jax.tree.map(lambda *each: sum(each), *(gradient(row, 1) for row in rows)), 4
    found = gradient(batch, pieces)
    assert np.isfinite(wanted.sums["loss"].total) and wanted.sums["loss"].count > 0
    assert found.sums["loss"].count == wanted.sums["loss"].count
    assert found.sums["loss"].total == pytest.approx(wanted.sums["loss"].total, rel=1e-5)
    for path, array in wanted.values.items():
        np.testing.assert_allclose(found.values[path], array, rtol=0, atol=1e-5 * max(1, np.abs(array).max()))
