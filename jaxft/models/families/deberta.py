"""DeBERTa (He et al. 2021): the first one, with fused projections, a vector for each distance, and no key bias."""

from dataclasses import replace

from jaxft.models.checkpoint.weight_table import ENCODER_HEADS, Fused, WeightRule, architectures, linear, tensor
from jaxft.models.families import deberta_v2


def spec(c):
    c.expect("talking_head", False, "heads that read each other are not implemented")
    c.expect("position_buckets", -1, "this one has a vector for each distance")
    return deberta_v2.spec(c, bias=frozenset("qvo"), maps=((True, False), (True, True)))


def rows(c):
    layer, ours = "encoder.layer.{i}.attention.self.", "layers.{i}.attn."
    return [
        *(row for row in deberta_v2.rows(c) if not row.theirs.endswith("_proj")),
        WeightRule(layer + "in_proj", ours + "qkv", Fused(("q", "k", "v"), groups=c.num_attention_heads)),
        WeightRule(layer + "q_bias", ours + "q.bias", tensor),
        WeightRule(layer + "v_bias", ours + "v.bias", tensor),
        WeightRule(layer + "pos_proj", ours + "position_k", linear),
        WeightRule(layer + "pos_q_proj", ours + "position_q", linear),
    ]


FAMILY = replace(
    deberta_v2.FAMILY,
    architectures=architectures("Deberta", ENCODER_HEADS.replace(" multiple-choice", "")),
    spec=spec,
    rows=rows,
)
