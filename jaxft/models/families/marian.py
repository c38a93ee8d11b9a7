"""Marian (Junczys-Dowmunt et al. 2018): BART without a norm of the embeddings, with sinusoidal positions."""

from dataclasses import replace

from jaxft.models.checkpoint.weight_table import WeightRule, architectures, embedding
from jaxft.models.families import bart
from jaxft.models.layers.sinusoids import sinusoids


def spec(c):
    return bart.spec(c, positions=c.max_position_embeddings, offset=0, norm=None, fill=sinusoids)


def rows(c):
    """Where the languages have a table of tokens each, it is not called `shared`."""
    if c.share_encoder_decoder_embeddings:
        return bart.rows(c)
    of_encoder = WeightRule("encoder.embed_tokens", "encoder.embed.tokens", embedding)
    return [of_encoder, WeightRule("decoder.embed_tokens", "embed.tokens", embedding), *bart.rows(c)[1:]]


def head(c, kind: str, classes: int):
    part, rows, repeats = bart.head(c, kind, classes)
    if not c.share_encoder_decoder_embeddings:
        repeats = {"lm_head.weight": "model.decoder.embed_tokens.weight"} if part else {}
    return part, rows, repeats


FAMILY = replace(
    bart.FAMILY,
    architectures=architectures("Marian", "none causal-lm") | {"seq2seq-lm": "MarianMTModel"},
    spec=spec,
    rows=rows,
    head=head,
)
