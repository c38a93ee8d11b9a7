"""Log softmax within groups of a row's entries."""

import jax
import jax.numpy as jnp


def segment_log_softmax(logits_btc: jax.Array, groups_bt: jax.Array) -> jax.Array:
    """Log softmax over the entries of each group in a row, for every column of the last axis: (rows, t, columns).

    Groups are numbered from 1 to at most t; group 0 (padding) is a group as well.
    """

    def of_row(logits: jax.Array, groups: jax.Array) -> jax.Array:
        count = len(groups) + 1
        top = jax.lax.stop_gradient(jax.ops.segment_max(logits, groups, count))[groups]
        return logits - top - jnp.log(jax.ops.segment_sum(jnp.exp(logits - top), groups, count))[groups]

    return jax.vmap(of_row)(logits_btc, groups_bt)
