"""Attention in tiles of some rows and key heads of a batch.

Letters: b batch, k key/value heads, r query rows, s key length, h head width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.parallel.mesh import platform, shards_per_dim

# Bytes of float32 scores that a device holds at once: what fits a CPU's caches, and enough to occupy other devices.
TILE = {"cpu": 2**23, "other": 2**28}


def by_tiles(function: Callable, q_bkrh: jax.Array, k_bksh: jax.Array, *more: Any) -> tuple[Any, Any]:
    """`function` of arrays (b, k, ...), applied to a tile of some rows and key heads at a time.

    It returns arrays of that form, and a tree of arrays (1, k, ...) that are summed over the rows. An argument may be
    (1, k, ...), the same for all rows, or (b, 1, ...), the same for all key heads.

    Scores are written and read several times: a tile of them stays in the caches, and no array of scores is as large as
    the batch. The mask of dropout is, with a byte per score.
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
    """The numbers of tiles along rows and key heads; the scores of one row and key head take `size` bytes.

    The fewest that keep a device's part of a tile within TILE; every device has a part of every tile.
    """
    spread_b, spread_k = shards_per_dim(("batch", "heads"), (b, k))
    most = _tile_bytes() // size * spread_b * spread_k  # row and key head pairs per tile
    options = [(n, 1) for n in divisors(b // spread_b)] + [(b // spread_b, n) for n in divisors(k // spread_k)]
    return next((x for x in options if b * k <= most * x[0] * x[1]), options[-1])


def group_splits(group: int, size: int) -> int:
    """Into how many the query heads of a key head are split, so that the scores of one row and a split fit a tile.

    `size` are the bytes of one row's and query head's scores. 1 on CPU, where larger tiles are not slower.
    """
    if platform() == "cpu":
        return 1
    return next((n for n in divisors(group) if group // n * size <= _tile_bytes()), group)


def _tile_bytes() -> int:
    return TILE.get(platform(), TILE["other"])


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _pick(x, number, rows, heads):
    """Tile `number` of an array (b, k, ...): every `rows`-th row and every `heads`-th head, so that each device picks
    from its own shard."""
    row, head = number // heads, number % heads
    rows, heads = rows if x.shape[0] > 1 else 1, heads if x.shape[1] > 1 else 1
    x = x.reshape(x.shape[0] // rows, rows, x.shape[1] // heads, heads, *x.shape[2:])
    x = jax.lax.dynamic_index_in_dim(x, row % rows, 1, keepdims=False)
    return jax.lax.dynamic_index_in_dim(x, head % heads, 2, keepdims=False)


def _joined(x, rows, heads):
    """The inverse of `_pick` for all tiles, stacked: (rows * heads, b / rows, k / heads, ...)."""
    b, k = rows * x.shape[1], heads * x.shape[2]
    x = x.reshape(rows, heads, *x.shape[1:])
    return x.transpose(2, 0, 3, 1, *range(4, x.ndim)).reshape(b, k, *x.shape[4:])
