"""Dropout, and its random bits: each of four elements uses a quarter of Threefry's 64 bits of one place."""

import math

import jax
import jax.numpy as jnp

from jaxft.parallel.mesh import platform

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # bits, of four rounds each, in turn
PARITY = 0x1BD11BDA  # of the key schedule


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; `key=None` means evaluation and returns `x` itself."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(keep_mask(key, rate, x.shape), x / (1.0 - rate), jnp.zeros_like(x))


def keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Bool of `shape`, False with probability `rate`, to 1 in 131,072; four rows (of the last axis but one) share bits.

    `shape` has two axes or more and at most 2^34 elements. Sixteen random bits decide on an element.
    """
    *lead, rows, columns = shape
    fours = keep_bits(key, round(rate * 2**16), (*lead, -(-rows // 4), columns))
    kept = (fours[..., None, :] & jnp.array([[1], [2], [4], [8]], jnp.uint8)) != 0
    return kept.reshape(*lead, -1, columns)[..., :rows, :]


def keep_bits(key: jax.Array, dropped: int, shape: tuple[int, ...]) -> jax.Array:
    """uint8 of `shape`, whose bits 0 to 3 say whether that quarter of the place's random bits is `dropped` or more."""
    *lead, rows, columns = shape
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]

    def bits(first_row, count):
        piece = (*lead, count, columns)
        places = [jax.lax.broadcasted_iota(jnp.uint32, piece, axis) * stride for axis, stride in enumerate(strides)]
        x, y = threefry(key, sum(places) + first_row * columns)
        quarters = (x & 0xFFFF, x >> 16, y & 0xFFFF, y >> 16)
        return sum(jnp.where(part >= dropped, 1 << i, 0) for i, part in enumerate(quarters)).astype(jnp.uint8)

    if platform() != "cpu":
        return bits(0, rows)
    # In two turns of a loop, since the result of a loop is stored: XLA on CPU would otherwise draw a place's bits anew
    # for each element and each use of it, and MiniLM's gradient of 16 x 128 tokens took 1.71 s instead of 1.51 s.
    half = -(-rows // 2)
    pieces = jax.lax.map(lambda first: bits(first, half), jnp.array([0, half], jnp.uint32))
    return jnp.moveaxis(pieces, 0, -3).reshape(*lead, 2 * half, columns)[..., :rows, :]


def threefry(key: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two words for each uint32 number: Threefry-2x32-20 (Salmon et al. 2011, section 4)."""
    first, second = jax.random.key_data(key)
    keys = (first, second, first ^ second ^ PARITY)
    x, y = jnp.zeros_like(place) + keys[0], place + keys[1]
    for turn in range(1, 6):
        for bits in ROTATIONS[(turn - 1) % 2]:
            x = x + y
            y = x ^ (y << bits | y >> (32 - bits))
        x, y = x + keys[turn % 3], y + keys[(turn + 1) % 3] + jnp.uint32(turn)
    return x, y
