"""mT5 (Xue et al. 2021): T5 with gated MLPs, for 101 languages."""

from dataclasses import replace
from functools import partial

from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import t5

FAMILY = replace(t5.FAMILY, architectures=architectures("MT5", t5.HEADS), head=partial(t5.head, scaled=False))
