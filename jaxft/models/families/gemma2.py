"""Gemma 2 (Gemma Team 2024): norms around each sublayer, soft-capped scores, sliding windows in every other layer."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import HeadRules, WeightRule, architectures
from jaxft.models.families import llama
from jaxft.models.layers.basic import RMSNorm
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("use_bidirectional_attention", None, "only causal attention is implemented")
    fields = {"scale": c.query_pre_attn_scalar**-0.5, "softcap": c.get("attn_logit_softcapping")}
    rms = RMSNorm(c.rms_norm_eps, scale_offset=1.0)
    layers = tuple(
        llama.layer(c, frozenset(llama.SANDWICH.values()), rms, c.hidden_activation, window=window, **fields)
        for window in llama.windows(c)
    )
    return llama.stack(c, layers, scale=c.hidden_size**0.5)


def rules(c: ConfigReader) -> list[WeightRule]:
    return llama.rules(c, llama.SANDWICH)


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    return llama.head(c, kind, classes, softcap=c.get("final_logit_softcapping"))


FAMILY = replace(llama.FAMILY, architectures=architectures("Gemma2", llama.HEADS), spec=spec, rules=rules, head=head)
