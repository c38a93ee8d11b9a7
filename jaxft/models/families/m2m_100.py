"""M2M-100 and NLLB (Fan et al. 2021; Costa-jussà et al. 2022): mBART with sinusoidal positions, which no file holds."""

from dataclasses import replace
from functools import partial

from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import bart
from jaxft.models.layers.sinusoids import to_the_last


def spec(c):
    """Positions begin behind the padding token's number."""
    return bart.spec(c, before=True, norm=None, fill=to_the_last, offset=c.pad_token_id + 1)


def head(c, kind: str, classes: int):
    """Without a bias of the scores."""
    part, rows, repeats = bart.head(c, kind, classes)
    return part and replace(part, bias=False), rows, repeats


FAMILY = replace(
    bart.FAMILY,
    architectures=architectures("M2M100", "none seq2seq-lm"),
    spec=spec,
    rows=partial(bart.rows, before=True),
    head=head,
    buffers=(r"(en|de)coder\.(version|embed_positions\.weights)",),
)
