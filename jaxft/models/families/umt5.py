"""umT5 (Chung et al. 2023): mT5 with a table of relative biases per layer."""

from dataclasses import replace
from functools import partial

from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import t5

FAMILY = replace(
    t5.FAMILY,
    architectures=architectures("UMT5", t5.HEADS),
    spec=partial(t5.spec, shared=False),
    rules=partial(t5.rules, shared=False),
)
