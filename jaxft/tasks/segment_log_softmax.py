"""Softmax among those entries of a row that belong together."""

import jax
import jax.numpy as jnp


def segment_log_softmax(logits_btc: jax.Array, groups_bt: jax.Array) -> jax.Array:
    """log softmax over the entries of each group of a row, for every column of the last axis; (rows, t, columns).

    `groups` are numbered from 1, 0 being one of its own, and there are not more of them than entries.
    """

    def of_row(logits, groups):
        count = len(groups) + 1
        top = jax.lax.stop_gradient(jax.ops.segment_max(logits, groups, count))[groups]
        return logits - top - jnp.log(jax.ops.segment_sum(jnp.exp(logits - top), groups, count))[groups]

    return jax.vmap(of_row)(logits_btc, groups_bt)
