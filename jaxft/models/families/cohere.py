"""Command R (Cohere 2024): Llama with parallel attention and MLP after one layer norm, interleaved rotary
positions, and scaled logits."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import HeadRules, WeightRule, architectures
from jaxft.models.families import llama
from jaxft.models.layers.attention import QKNorm
from jaxft.models.layers.basic import LayerNorm
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import Spec

NORMS = {"input_layernorm": "attn_in"}


def spec(c: ConfigReader) -> Spec:
    rotary = read_rotary(c, c.hidden_size // c.num_attention_heads, pairs="neighbours")
    norm = LayerNorm(c.layer_norm_eps, bias=False)
    qk_norm = QKNorm(norm, shared=False) if c.get("use_qk_norm", False) else None  # in Command R+
    layer = replace(llama.layer(c, frozenset(NORMS.values()), norm, rotary=rotary, qk_norm=qk_norm), parallel=True)
    return llama.stack(c, (layer,) * c.num_hidden_layers)


def rules(c: ConfigReader) -> list[WeightRule]:
    return llama.rules(c, NORMS)


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    return llama.head(c, kind, classes, scale=c.logit_scale)


FAMILY = replace(
    llama.FAMILY, architectures=architectures("Cohere", "none causal-lm"), spec=spec, rules=rules, head=head
)
