"""Marian (Junczys-Dowmunt et al. 2018): BART with sinusoidal positions and without a norm on the embeddings."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import HeadRules, WeightRule, architectures, embedding
from jaxft.models.families import bart
from jaxft.models.layers.sinusoids import sinusoids
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    places = {"positions": c.max_position_embeddings, "offset": 0, "fill": sinusoids}
    return bart.spec(c, **places, norm=None, prompt_scale=None if c.scale_embedding else 1.0)


def rules(c: ConfigReader) -> list[WeightRule]:
    """BART's; separate token embeddings of encoder and decoder are under their own names instead of `shared`."""
    if c.share_encoder_decoder_embeddings:
        return bart.rules(c)
    of_encoder = WeightRule("encoder.embed_tokens", "encoder.embed.tokens", embedding)
    return [of_encoder, WeightRule("decoder.embed_tokens", "embed.tokens", embedding), *bart.rules(c)[1:]]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    part, rules, ties = bart.head(c, kind, classes)
    if not c.share_encoder_decoder_embeddings:
        ties = {"lm_head.weight": "model.decoder.embed_tokens.weight"} if part else {}
    return HeadRules(part, rules, ties)


FAMILY = replace(
    bart.FAMILY,
    architectures=architectures("Marian", "none causal-lm") | {"seq2seq-lm": "MarianMTModel"},
    spec=spec,
    rules=rules,
    head=head,
)
