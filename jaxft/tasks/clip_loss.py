"""The symmetric contrastive loss of CLIP."""

import jax
import jax.numpy as jnp

from jaxft.metrics import Mean


def clip_loss(scores: jax.Array) -> Mean:
    """The mean of two cross entropies (nats): each row's partner among the columns, each column's among the rows.

    `scores` are float32 (n, n); the partners are on the diagonal (Radford et al. 2021, figure 3).
    """
    rows, columns = (jnp.diagonal(jax.nn.log_softmax(scores, axis)) for axis in (1, 0))
    return Mean(-jnp.sum(rows + columns) / 2, jnp.asarray(float(len(scores))))
