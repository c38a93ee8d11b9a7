"""Granite (Granite Team 2024): Llama with factors on embeddings, scores, sublayers' outputs and logits."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import HeadRules, architectures
from jaxft.models.families import llama
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    layer = replace(llama.layer(c, scale=c.attention_multiplier), residual_multiplier=c.residual_multiplier)
    factor = c.embedding_multiplier
    return llama.stack(c, (layer,) * c.num_hidden_layers, scale=factor, prompt_scale=factor)


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    return llama.head(c, kind, classes, scale=1.0 / c.logits_scaling)


FAMILY = replace(llama.FAMILY, architectures=architectures("Granite", "none causal-lm"), spec=spec, head=head)
