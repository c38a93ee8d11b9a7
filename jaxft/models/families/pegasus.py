"""PEGASUS (Zhang et al. 2020): BART with pre-norm layers and sinusoidal positions."""

from dataclasses import replace
from functools import partial

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import bart
from jaxft.models.layers.sinusoids import sinusoids
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    places = {"positions": c.max_position_embeddings, "offset": 0, "fill": sinusoids}
    return bart.spec(c, pre_norm=True, **places, norm=None, prompt_scale=None if c.scale_embedding else 1.0)


FAMILY = replace(
    bart.FAMILY,
    architectures=architectures("Pegasus", "none seq2seq-lm causal-lm"),
    spec=spec,
    rules=partial(bart.rules, pre_norm=True),
)
