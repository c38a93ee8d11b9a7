"""M2M-100 and NLLB (Fan et al. 2021; Costa-jussà et al. 2022): mBART with sinusoidal positions that are not stored."""

from dataclasses import replace
from functools import partial

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import HeadRules, architectures
from jaxft.models.families import bart
from jaxft.models.heads import LanguageModel
from jaxft.models.layers.sinusoids import to_the_last
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    """Position 0 is row `pad_token_id + 1` of the table."""
    return bart.spec(c, pre_norm=True, norm=None, fill=to_the_last, offset=c.pad_token_id + 1)


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    """BART's, without a bias on the logits."""
    found = bart.head(c, kind, classes)
    return found._replace(part=replace(found.part, bias=False)) if isinstance(found.part, LanguageModel) else found


FAMILY = replace(
    bart.FAMILY,
    architectures=architectures("M2M100", "none seq2seq-lm"),
    spec=spec,
    rules=partial(bart.rules, pre_norm=True),
    head=head,
    buffers=(r"(en|de)coder\.(version|embed_positions\.weights)",),
)
