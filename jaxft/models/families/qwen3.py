"""Qwen3 (Yang et al. 2025): Llama with QK norms per head, and sliding windows in some layers."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import llama
from jaxft.models.layers.attention import QKNorm
from jaxft.models.layers.basic import RMSNorm
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.ignore("use_sliding_window", "max_window_layers")  # `layer_types` and `sliding_window` decide
    normed = QKNorm(RMSNorm(c.rms_norm_eps))
    return llama.stack(c, tuple(llama.layer(c, qk_norm=normed, window=w) for w in llama.windows(c)))


FAMILY = replace(llama.FAMILY, architectures=architectures("Qwen3", llama.HEADS + " question-answering"), spec=spec)
