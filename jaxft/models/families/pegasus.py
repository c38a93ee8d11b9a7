"""PEGASUS (Zhang et al. 2020): BART with norms before the sublayers and sinusoidal positions."""

from dataclasses import replace
from functools import partial

import numpy as np

from jaxft.models.families import bart
from jaxft.models.hf import architectures


def sinusoids(shape: tuple[int, int]) -> np.ndarray:
    """Sines, then cosines, of position / 10000^(2i / width) (Vaswani et al. 2017, section 3.5)."""
    positions, width = shape
    angles = np.arange(positions)[:, None] / 10000 ** (2 * (np.arange(width) // 2) / width)
    return np.concatenate([np.sin(angles[:, ::2]), np.cos(angles[:, 1::2])], 1).astype(np.float32)


def spec(c):
    return bart.spec(c, before=True, positions=c.max_position_embeddings, offset=0, norm=None, fill=sinusoids)


FAMILY = replace(
    bart.FAMILY,
    architectures=architectures("Pegasus", "none seq2seq-lm"),
    spec=spec,
    rows=partial(bart.rows, before=True),
)
