"""Qwen3 MoE (Yang et al. 2025): Qwen3 with a mixture of experts in most layers."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import qwen2_moe
from jaxft.models.layers.attention import QKNorm
from jaxft.models.layers.basic import RMSNorm
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.ignore("use_sliding_window")  # `sliding_window` decides
    layer = qwen2_moe.layer(c, qk_norm=QKNorm(RMSNorm(c.rms_norm_eps)), window=c.get("sliding_window"))
    return qwen2_moe.with_experts(c, [layer] * c.num_hidden_layers, qwen2_moe.experts(c))


FAMILY = replace(
    qwen2_moe.FAMILY,
    architectures=architectures("Qwen3Moe", qwen2_moe.HEADS),
    spec=spec,
    prefixes=(("question-answering", "transformer."),),
)
