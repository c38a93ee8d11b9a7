"""mBART (Liu et al. 2020): BART with pre-norm layers; the decoder's input begins with the language token."""

from dataclasses import replace
from functools import partial

from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import bart

FAMILY = replace(
    bart.FAMILY,
    architectures=architectures("MBart", bart.HEADS),
    spec=partial(bart.spec, pre_norm=True, decoder_start="last"),
    rules=partial(bart.rules, pre_norm=True),
)
