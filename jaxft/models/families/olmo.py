"""OLMo (Groeneveld et al. 2024): Llama with layer norms without parameters, and clipped queries, keys and values."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import llama
from jaxft.models.layers.basic import LayerNorm
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    layer = llama.layer(c, norm=LayerNorm(1e-5, bias=False, scale=False), clip=c.get("clip_qkv"))
    return llama.stack(c, (layer,) * c.num_hidden_layers)


FAMILY = replace(llama.FAMILY, architectures=architectures("Olmo", "none sequence-classification causal-lm"), spec=spec)
