"""Marian (Junczys-Dowmunt et al. 2018): BART without a norm of the embeddings, with sinusoidal positions."""

from dataclasses import replace

import numpy as np

from jaxft.models.families import bart
from jaxft.models.hf import Row, embedding


def sinusoids(shape: tuple[int, int]) -> np.ndarray:
    """Sines, then cosines, of position / 10000^(2i / width) (Vaswani et al. 2017, section 3.5)."""
    positions, width = shape
    angles = np.arange(positions)[:, None] / 10000 ** (2 * (np.arange(width) // 2) / width)
    return np.concatenate([np.sin(angles[:, ::2]), np.cos(angles[:, 1::2])], 1).astype(np.float32)


def spec(c):
    return bart.spec(c, positions=c.max_position_embeddings, offset=0, norm=None, fill=sinusoids)


def rows(c):
    """Where the languages have a table of tokens each, it is not called `shared`."""
    if c.share_encoder_decoder_embeddings:
        return bart.rows(c)
    of_encoder = Row("encoder.embed_tokens", "encoder.embed.tokens", embedding)
    return [of_encoder, Row("decoder.embed_tokens", "embed.tokens", embedding), *bart.rows(c)[1:]]


def head(c, kind: str, classes: int):
    part, rows, repeats = bart.head(c, kind, classes)
    if not c.share_encoder_decoder_embeddings:
        repeats = {name: "model.decoder.embed_tokens.weight" for name in repeats if name == "lm_head.weight"}
    return part, rows, repeats


FAMILY = replace(
    bart.FAMILY,
    architectures={"none": "MarianModel", "seq2seq-lm": "MarianMTModel"},
    spec=spec,
    rows=rows,
    head=head,
)
