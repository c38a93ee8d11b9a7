"""M2M-100 and NLLB (Fan et al. 2021; Costa-jussà et al. 2022): mBART with sinusoidal positions, which no file holds."""

import math
from dataclasses import replace
from functools import partial

import numpy as np

from jaxft.models.families import bart
from jaxft.models.hf import architectures


def sinusoids(shape: tuple[int, int]) -> np.ndarray:
    """Sines, then cosines, of position * 10000^(-i / (width / 2 - 1)), as tensor2tensor has them."""
    positions, width = shape
    rates = np.exp(np.arange(width // 2, dtype=np.float32) * np.float32(-math.log(10000) / (width // 2 - 1)))
    angles = np.arange(positions, dtype=np.float32)[:, None] * rates
    table = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    return np.pad(table, [(0, 0), (0, width % 2)])


def spec(c):
    """Positions begin behind the padding token's number."""
    return bart.spec(c, before=True, norm=None, fill=sinusoids, offset=c.pad_token_id + 1)


def head(c, kind: str, classes: int):
    """Without a bias of the scores."""
    part, rows, repeats = bart.head(c, kind, classes)
    return part and replace(part, bias=False), rows, repeats


FAMILY = replace(
    bart.FAMILY,
    architectures=architectures("M2M100", "none seq2seq-lm"),
    spec=spec,
    rows=partial(bart.rows, before=True),
    head=head,
)
