"""Attention a tile at a time: some rows and key heads of a batch.

Letters: b batch, k key/value heads, r query rows, s key length, h head width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxft.parallel.mesh import platform, shares

# Bytes of float32 scores that a device has at once: what a CPU's caches hold, and enough to keep others busy.
TILE = {"cpu": 2**23, "other": 2**28}


def by_tiles(function: Callable, q_bkrh, k_bksh, *more):
    """`function` of arrays (b, k, ...), a tile of some rows and key heads at a time.

    It gives such arrays, and beside them a tree of arrays (1, k, ...) that are to be summed over the rows. An array may
    be (1, k, ...), the same for all rows, or (b, 1, ...), the same for all key heads.

    Scores are written and read several times: a tile of them stays in the caches, and no array of scores is as large as
    the batch. Dropout's choice is, a byte for each score.
    """
    b, k, r, _ = q_bkrh.shape
    rows, heads = tiles(b, k, 4 * r * k_bksh.shape[2])
    if rows * heads == 1:
        return function(q_bkrh, k_bksh, *more)

    def tile(number):
        return function(*jax.tree.map(lambda x: _pick(x, number, rows, heads), (q_bkrh, k_bksh, *more)))

    def one(sums, number):
        done, to_sum = tile(number)
        return jax.tree.map(lambda total, x: total.at[number % heads].add(x), sums, to_sum), done

    _, to_sum = jax.eval_shape(tile, 0)
    zeros = jax.tree.map(lambda x: jnp.zeros((heads, *x.shape), x.dtype), to_sum)
    sums, done = jax.lax.scan(one, zeros, jnp.arange(rows * heads))
    return jax.tree.map(lambda x: _joined(x, rows, heads), done), jax.tree.map(lambda x: _joined(x, 1, heads), sums)


def tiles(b: int, k: int, size: int) -> tuple[int, int]:
    """Into how many tiles rows and key heads are cut, whose scores take `size` bytes for a row and a key head.

    The fewest that keep a tile of each device within TILE; every device has a share of every tile.
    """
    spread_b, spread_k = shares(("batch", "heads"), (b, k))
    most = TILE.get(platform(), TILE["other"]) // size * spread_b * spread_k  # pairs of row and key head
    options = [(n, 1) for n in divisors(b // spread_b)] + [(b // spread_b, n) for n in divisors(k // spread_k)]
    return next((x for x in options if b * k <= most * x[0] * x[1]), options[-1])


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _pick(x, number, rows, heads):
    """Tile `number` of an array (b, k, ...): every `rows`-th row and every `heads`-th head, so that sharded axes stay
    whole on each device."""
    row, head = number // heads, number % heads
    rows, heads = rows if x.shape[0] > 1 else 1, heads if x.shape[1] > 1 else 1
    x = x.reshape(x.shape[0] // rows, rows, x.shape[1] // heads, heads, *x.shape[2:])
    x = jax.lax.dynamic_index_in_dim(x, row % rows, 1, keepdims=False)
    return jax.lax.dynamic_index_in_dim(x, head % heads, 2, keepdims=False)


def _joined(x, rows, heads):
    """Inverse of `_pick` for all tiles in a row, (rows * heads, b / rows, k / heads, ...)."""
    b, k = rows * x.shape[1], heads * x.shape[2]
    x = x.reshape(rows, heads, *x.shape[1:])
    return x.transpose(2, 0, 3, 1, *range(4, x.ndim)).reshape(b, k, *x.shape[4:])
