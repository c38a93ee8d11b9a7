"""Attributions from what a score loses without a token."""

import numpy as np

from jaxft.attribution.settings import Settings
from jaxft.attribution.target import Target, scores_of
from jaxft.attribution.text import Text
from jaxft.inference.model import LoadedModel


def occlusion(model: LoadedModel, text: Text, target: Target, settings: Settings) -> np.ndarray:
    """Float64 (tokens,): the text's score minus that of the text with this token blank; 0 for special tokens.

    Zeiler and Fergus 2014, section 4.2, with a token in the place of a patch.
    """
    places = [place for place, part in enumerate(text.parts) if part is not None]
    rows = [text.row, *(_without(text, place, settings.blank) for place in places)]
    whole, *scores = scores_of(model, rows, target, settings.batch)
    lost = np.zeros(len(text.tokens))
    lost[places] = whole - np.array(scores)
    return lost


def _without(text: Text, place: int, blank: int) -> dict:
    ids = list(text.row["input_ids"])
    ids[place] = blank
    return text.row | {"input_ids": ids}
