"""Dropout, and the random bits that it needs many of.

The bits are those of `jax.random.bits`. JAX on CPU stores all of them after every fourth of the 20 rounds, with which a
step of MiniLM on 16 x 512 tokens took 6.3 s instead of 4.9 s. Here they are stored once.
"""

import math

import jax
import jax.numpy as jnp

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # bits, of four rounds each, in turn
PARITY = 0x1BD11BDA  # of the key schedule


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; `key=None` means evaluation and returns `x` itself."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(keep_mask(key, rate, x.shape), x / (1.0 - rate), jnp.zeros_like(x))


def keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Bool of `shape`, False with probability `rate`, to 1 in 131,072: half a random word for each.

    A word serves two rows (of the last axis but one).
    """
    *lead, rows, columns = shape
    words = random_words(key, (*lead, -(-rows // 2), columns))
    halves = (words[..., None, :] >> jnp.array([[0], [16]], jnp.uint32)) & 0xFFFF
    return halves.reshape(*lead, -1, columns)[..., :rows, :] >= round(rate * 2**16)


def random_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """uint32 of `shape`, two axes or more and at most 2^32 numbers: those of `jax.random.bits(key, shape, jnp.uint32)`.

    In two turns of a loop, since what a loop leaves is stored: XLA on CPU would otherwise draw each word anew for both
    its halves and for every place that reads them: MiniLM's gradient of 16 x 128 tokens took 1.71 s instead of 1.51 s.
    """
    *lead, rows, columns = shape
    half = -(-rows // 2)
    piece = (*lead, half, columns)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]

    def words(first_row):
        places = [jax.lax.broadcasted_iota(jnp.uint32, piece, axis) * stride for axis, stride in enumerate(strides)]
        return threefry(key, sum(places) + first_row * columns)

    pieces = jax.lax.map(words, jnp.array([0, half], jnp.uint32))
    return jnp.moveaxis(pieces, 0, -3).reshape(*lead, 2 * half, columns)[..., :rows, :]


def threefry(key: jax.Array, place: jax.Array) -> jax.Array:
    """A word for each uint32 number: Threefry-2x32-20 (Salmon et al. 2011, section 4), its two results in one."""
    first, second = jax.random.key_data(key)
    keys = (first, second, first ^ second ^ PARITY)
    x, y = jnp.zeros_like(place) + keys[0], place + keys[1]
    for turn in range(1, 6):
        for bits in ROTATIONS[(turn - 1) % 2]:
            x = x + y
            y = x ^ (y << bits | y >> (32 - bits))
        x, y = x + keys[turn % 3], y + keys[(turn + 1) % 3] + jnp.uint32(turn)
    return x ^ y
