"""Gemma 3 (Gemma Team 2025): the text model; Gemma 2 with QK norms, and other rotary positions in layers with
sliding windows than in those with full attention."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import HeadRules, WeightRule, architectures
from jaxft.models.families import llama
from jaxft.models.layers.attention import QKNorm
from jaxft.models.layers.basic import RMSNorm
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("use_bidirectional_attention", False, "only causal attention is implemented")
    rms = RMSNorm(c.rms_norm_eps, scale_offset=1.0)
    layers = tuple(
        llama.layer(
            c,
            frozenset(llama.SANDWICH.values()),
            rms,
            c.hidden_activation,
            rotary=read_rotary(c, c.head_dim, kind),
            scale=c.query_pre_attn_scalar**-0.5,
            softcap=c.get("attn_logit_softcapping"),
            qk_norm=QKNorm(rms),
            window=window,
        )
        for kind, window in zip(c.of_layers("layer_types"), llama.windows(c), strict=True)
    )
    return llama.stack(c, layers, scale=c.hidden_size**0.5)


def rules(c: ConfigReader) -> list[WeightRule]:
    return llama.rules(c, llama.SANDWICH)


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    return llama.head(c, kind, classes, softcap=c.get("final_logit_softcapping"))


FAMILY = replace(
    llama.FAMILY,
    architectures=architectures("Gemma3Text", "none sequence-classification") | {"causal-lm": "Gemma3ForCausalLM"},
    spec=spec,
    rules=rules,
    head=head,
)
