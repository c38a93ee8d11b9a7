"""mBART (Liu et al. 2020): BART with norms before the sublayers; a text for the decoder begins with its language."""

from dataclasses import replace
from functools import partial

from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import bart

FAMILY = replace(
    bart.FAMILY,
    architectures=architectures("MBart", bart.HEADS),
    spec=partial(bart.spec, before=True, decoder_start="last"),
    rules=partial(bart.rules, before=True),
)
