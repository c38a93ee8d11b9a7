"""OLMo 2 (OLMo Team 2024): Llama with norms after each sublayer, and norms over all queries and all keys."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import WeightRule, architectures
from jaxft.models.families import llama
from jaxft.models.layers.attention import QKNorm
from jaxft.models.layers.basic import RMSNorm
from jaxft.models.spec import Spec

NORMS = {"post_attention_layernorm": "attn_out", "post_feedforward_layernorm": "mlp_out"}


def spec(c: ConfigReader) -> Spec:
    layer = llama.layer(c, frozenset(NORMS.values()), qk_norm=QKNorm(RMSNorm(c.rms_norm_eps), over="all"))
    return llama.stack(c, (layer,) * c.num_hidden_layers)


def rules(c: ConfigReader) -> list[WeightRule]:
    return llama.rules(c, NORMS)


FAMILY = replace(
    llama.FAMILY,
    architectures=architectures("Olmo2", "none sequence-classification causal-lm"),
    spec=spec,
    rules=rules,
)
