"""Where the tokens of a call stand: in which text, at which position, in which column of the row.

Letters: b batch, n tokens of a row, k positions that are picked.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Tokens(NamedTuple):
    """The tokens that attend (queries) or that are attended to (keys); int32 arrays."""

    segments: jax.Array  # (b, n): the text of its row that a token belongs to, from 1; 0 is padding
    positions: jax.Array  # (b, n): from 0 in every text
    indices: jax.Array  # (b, n): the column of the row; (1, n) if all rows have the same
    types: jax.Array | None = None  # (b, n): token type ids, if the batch has them

    @classmethod
    def rows(cls, segments: jax.Array, positions: jax.Array, types: jax.Array | None = None) -> "Tokens":
        """All tokens of the rows, in order."""
        return cls(segments, positions, jnp.arange(segments.shape[1])[None], types)

    def take(self, at_bk: jax.Array) -> "Tokens":
        """The tokens in the columns `at`, (b, k)."""
        every = self._replace(indices=jnp.broadcast_to(self.indices, self.segments.shape))
        return jax.tree.map(lambda x_bn: jnp.take_along_axis(x_bn, at_bk, 1), every)


def gather_at(x_bnd: jax.Array, at_bk: jax.Array | None) -> jax.Array:
    """The vectors in the columns `at`, (b, k, d); all of them if `at` is None."""
    return x_bnd if at_bk is None else jnp.take_along_axis(x_bnd, at_bk[..., None], axis=1)
