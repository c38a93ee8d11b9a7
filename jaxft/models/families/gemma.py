"""Gemma (Gemma Team 2024): Llama with norm scales stored as differences from 1, and embeddings times sqrt(width)."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import llama
from jaxft.models.layers.basic import RMSNorm
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("use_bidirectional_attention", None, "only causal attention is implemented")
    layer = llama.layer(c, norm=RMSNorm(c.rms_norm_eps, scale_offset=1.0))
    return llama.stack(c, (layer,) * c.num_hidden_layers, scale=c.hidden_size**0.5)


FAMILY = replace(llama.FAMILY, architectures=architectures("Gemma", llama.HEADS), spec=spec)
