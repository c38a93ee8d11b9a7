"""Dropout, and the random bits that it needs many of.

The bits are those of `jax.random.bits`, computed where they are compared with the rate. On CPU JAX stores all of them
after every fourth of the 20 rounds: a step of MiniLM on 16 x 512 tokens takes 6.3 s with that, and 4.9 s without.
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

    A word serves two rows (of the last axis but one): where the compiler stores the words, it draws half as many.
    """
    *lead, rows, columns = shape
    words = random_words(key, (*lead, -(-rows // 2), 1, columns))
    halves = (words >> jnp.array([[0], [16]], jnp.uint32)) & 0xFFFF
    return halves.reshape(*lead, -1, columns)[..., :rows, :] >= round(rate * 2**16)


def random_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """uint32 of `shape`, at most 2^32 of them: Threefry-2x32-20 of a number's place (Salmon et al. 2011, section 4).

    `key` is one of JAX's Threefry keys; equal to `jax.random.bits(key, shape, jnp.uint32)`.
    """
    first, second = jax.random.key_data(key)
    keys = (first, second, first ^ second ^ PARITY)
    place = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    x, y = jnp.zeros_like(place) + keys[0], place + keys[1]
    for turn in range(1, 6):
        for bits in ROTATIONS[(turn - 1) % 2]:
            x = x + y
            y = x ^ (y << bits | y >> (32 - bits))
        x, y = x + keys[turn % 3], y + keys[(turn + 1) % 3] + jnp.uint32(turn)
    return x ^ y
