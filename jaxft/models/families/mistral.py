"""Mistral (Jiang et al. 2023): Llama with sliding-window attention."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import llama
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    return llama.stack(c, (llama.layer(c, window=c.get("sliding_window")),) * c.num_hidden_layers)


FAMILY = replace(
    llama.FAMILY, architectures=architectures("Mistral", llama.HEADS + " question-answering"), spec=spec, prefixes=()
)
