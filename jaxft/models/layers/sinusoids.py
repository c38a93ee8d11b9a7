"""Fixed position tables: sines, then cosines, of the position at falling frequencies."""

import math

import numpy as np


def sinusoids(shape: tuple[int, int]) -> np.ndarray:
    """Float32 (positions, width), frequencies 10000^(-2i / width) (Vaswani et al. 2017, section 3.5).

    An odd width has one more sine.
    """
    positions, width = shape
    angles = np.arange(positions)[:, None] / 10000 ** (2 * (np.arange(width) // 2) / width)
    return np.concatenate([np.sin(angles[:, ::2]), np.cos(angles[:, 1::2])], 1).astype(np.float32)


def to_the_last(shape: tuple[int, int]) -> np.ndarray:
    """Float32 (positions, width), frequencies from 1 to 1/10000, 10000^(-i / (width / 2 - 1)), as in tensor2tensor."""
    positions, width = shape
    rates = np.exp(np.arange(width // 2, dtype=np.float32) * np.float32(-math.log(10000) / (width // 2 - 1)))
    angles = np.arange(positions, dtype=np.float32)[:, None] * rates
    table = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    return np.pad(table, [(0, 0), (0, width % 2)])
