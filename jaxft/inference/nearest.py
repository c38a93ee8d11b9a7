"""The nearest vectors, exactly: a block of rows is scored at a time, and the best of all blocks so far are kept."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROWS, QUERIES = 16_384, 256  # of a block: 16 MiB of scores
Similarity = Callable[[jax.Array, jax.Array], jax.Array]  # (queries, width), (rows, width) -> (queries, rows)


@dataclass(frozen=True)
class Exact:
    """Every vector is compared with the query."""

    vectors: np.ndarray  # float32 (rows, width)
    similarity: str  # one of SIMILARITIES

    @classmethod
    def of(cls, vectors: np.ndarray, similarity: str, store: Path | None) -> "Exact":
        """Nothing is built, so that nothing is kept in the folder `store`."""
        return cls(vectors, similarity)

    def nearest(self, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """See `nearest`."""
        return nearest(queries, self.vectors, self.similarity, top)


def nearest(queries: np.ndarray, vectors: np.ndarray, similarity: str, top: int) -> tuple[np.ndarray, np.ndarray]:
    """(scores float32, rows int64), both (queries, top or all rows), the best first; of equal scores the first row.

    `queries` (n, width) and `vectors` (rows, width) are float32; `similarity` is one of SIMILARITIES. Memory on the
    device is that of a block, whatever the number of rows.
    """
    top = min(top, len(vectors))
    found = [_of_block(queries[start : start + QUERIES], vectors, similarity, top) for start in _starts(queries)]
    scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, rows.astype(np.int64)


def _starts(queries: np.ndarray) -> range:
    return range(0, max(len(queries), 1), QUERIES)


def _of_block(queries: np.ndarray, vectors: np.ndarray, similarity: str, top: int) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` of at most QUERIES queries. Blocks are padded to few sizes, so that few programs are compiled."""
    asked = jnp.asarray(_padded(queries, _size(len(queries), QUERIES)))
    size = _size(len(vectors), ROWS)
    best = jnp.full((len(asked), top), -jnp.inf), jnp.zeros((len(asked), top), jnp.int32)
    for start in range(0, len(vectors), size):
        block = vectors[start : start + size]
        best = _merge(asked, _padded(block, size), start, len(block), *best, similarity=similarity)
    scores, rows = jax.device_get(best)
    return scores[: len(queries)], rows[: len(queries)]


@functools.partial(jax.jit, static_argnames="similarity")
def _merge(
    queries: jax.Array,
    block: jax.Array,
    start: jax.Array,
    count: jax.Array,
    scores: jax.Array,
    rows: jax.Array,
    *,
    similarity: str,
) -> tuple[jax.Array, jax.Array]:
    """The best of `scores` and `rows` (queries, top) and of the block's first `count` rows, numbered from `start`.

    `top_k` puts the first of equal values first: those of earlier blocks, then those of lower rows.
    """
    number = jnp.arange(len(block))
    new = jnp.where(number < count, SIMILARITIES[similarity](queries, block), -jnp.inf)
    numbers = jnp.broadcast_to(start + number, new.shape)
    found, at = jax.lax.top_k(jnp.concatenate([scores, new], 1), scores.shape[1])
    return found, jnp.take_along_axis(jnp.concatenate([rows, numbers], 1), at, 1)


def _size(count: int, most: int) -> int:
    return min(most, 2 ** max(count - 1, 0).bit_length())


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    return rows if len(rows) == size else np.pad(rows, ((0, size - len(rows)), (0, 0)))


def scaled_to_length_1(vectors: jax.Array) -> jax.Array:
    """Vectors (n, width) of length 1; a vector of zeros stays zero."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _dot(queries: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.matmul(queries, rows.T, precision="highest")


def _cosine(queries: jax.Array, rows: jax.Array) -> jax.Array:
    return _dot(scaled_to_length_1(queries), scaled_to_length_1(rows))


def _euclidean(queries: jax.Array, rows: jax.Array) -> jax.Array:
    # From the differences: |q|^2 + |r|^2 - 2 q.r loses all digits of near neighbours.
    return jax.lax.map(lambda query: -jnp.linalg.norm(rows - query, axis=-1), queries)


def _manhattan(queries: jax.Array, rows: jax.Array) -> jax.Array:
    return jax.lax.map(lambda query: -jnp.sum(jnp.abs(rows - query), -1), queries)


# The names of sentence-transformers. Distances are negative, so that larger is nearer.
SIMILARITIES: dict[str, Similarity] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
