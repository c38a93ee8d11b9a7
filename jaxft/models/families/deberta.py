"""DeBERTa (He et al. 2021): DeBERTa v2 with fused projections, an embedding per distance, and no key bias."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import ENCODER_HEADS, Fused, WeightRule, architectures, linear, tensor
from jaxft.models.families import deberta_v2
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("talking_head", False, "talking heads are not implemented")
    c.expect("position_buckets", -1, "DeBERTa v1 has an embedding per distance")
    return deberta_v2.spec(c, bias=frozenset("qvo"), maps=((True, False), (True, True)))


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "encoder.layer.{i}.attention.self.", "layers.{i}.attn."
    return [
        *(rule for rule in deberta_v2.rules(c) if not rule.hf.endswith("_proj")),
        WeightRule(hf + "in_proj", jaxft + "qkv", Fused(("q", "k", "v"), groups=c.num_attention_heads)),
        WeightRule(hf + "q_bias", jaxft + "q.bias", tensor),
        WeightRule(hf + "v_bias", jaxft + "v.bias", tensor),
        WeightRule(hf + "pos_proj", jaxft + "position_k", linear),
        WeightRule(hf + "pos_q_proj", jaxft + "position_q", linear),
    ]


FAMILY = replace(
    deberta_v2.FAMILY,
    architectures=architectures("Deberta", ENCODER_HEADS.replace(" multiple-choice", "")),
    spec=spec,
    rules=rules,
)
