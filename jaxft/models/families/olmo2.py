"""OLMo 2 (OLMo Team 2024): Llama with norms behind each sublayer, and of all queries and keys together."""

from dataclasses import replace

from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import llama
from jaxft.models.layers.attention import QKNorm
from jaxft.models.layers.basic import RMSNorm

NORMS = {"post_attention_layernorm": "attn_out", "post_feedforward_layernorm": "mlp_out"}


def spec(c):
    layer = llama.layer(c, frozenset(NORMS.values()), qk_norm=QKNorm(RMSNorm(c.rms_norm_eps), over="all"))
    return llama.stack(c, (layer,) * c.num_hidden_layers)


def rows(c):
    return llama.rows(c, NORMS)


FAMILY = replace(
    llama.FAMILY,
    architectures=architectures("Olmo2", "none sequence-classification causal-lm"),
    spec=spec,
    rows=rows,
)
