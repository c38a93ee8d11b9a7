"""Qwen2 (Yang et al. 2024): Llama with biases on queries, keys and values, and sliding windows in some layers."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import llama
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.ignore("use_sliding_window", "max_window_layers")  # `layer_types` and `sliding_window` decide
    return llama.stack(c, tuple(llama.layer(c, bias=frozenset("qkv"), window=w) for w in llama.windows(c)))


FAMILY = replace(llama.FAMILY, architectures=architectures("Qwen2", llama.HEADS + " question-answering"), spec=spec)
