"""SmolLM3 (Bakouch et al. 2025): Llama without rotary positions in some layers, and sliding windows in some."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import llama
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.ignore("use_sliding_window", "no_rope_layer_interval")  # the lists of layers decide
    rotary = read_rotary(c, c.hidden_size // c.num_attention_heads)
    layers = tuple(
        llama.layer(c, rotary=rotary if turns else None, window=window)
        for turns, window in zip(
            c.of_layers("no_rope_layers"), llama.windows(c), strict=True
        )  # 1 where there is rotation
    )
    return llama.stack(c, layers)


FAMILY = replace(llama.FAMILY, architectures=architectures("SmolLM3", llama.HEADS + " question-answering"), spec=spec)
