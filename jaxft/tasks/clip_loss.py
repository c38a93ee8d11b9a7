"""Losses of tasks that find what belongs together among all that a batch holds."""

import jax
import jax.numpy as jnp

from jaxft.metrics import Mean


def contrast(scores: jax.Array) -> Mean:
    """Cross entropy (nats) of finding each row's partner among the columns and each column's among the rows, halved.

    `scores` are (n, n), float32; the partners stand on the diagonal (Radford et al. 2021, figure 3).
    """
    rows, columns = (jnp.diagonal(jax.nn.log_softmax(scores, axis)) for axis in (1, 0))
    return Mean(-jnp.sum(rows + columns) / 2, jnp.asarray(float(len(scores))))
