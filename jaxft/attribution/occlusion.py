"""Attributions from the loss of score when a token is replaced."""

from typing import Any

import numpy as np

from jaxft.attribution.settings import Settings
from jaxft.attribution.target import Target, scores_of
from jaxft.attribution.text import Text
from jaxft.inference.model import LoadedModel


def occlusion(model: LoadedModel, text: Text, target: Target, settings: Settings) -> np.ndarray:
    """Float64 (tokens,): the score of the text minus that with this token replaced; 0 for special tokens.

    Zeiler and Fergus 2014, section 4.2, with tokens instead of patches.
    """
    places = [place for place, text_id in enumerate(text.text_ids) if text_id is not None]
    rows = [text.row, *(_without(text, place, settings.baseline) for place in places)]
    score, *scores = scores_of(model, rows, target, settings.batch)
    lost = np.zeros(len(text.tokens))
    lost[places] = score - np.array(scores)
    return lost


def _without(text: Text, place: int, baseline: int) -> dict[str, Any]:
    ids = list(text.row["input_ids"])
    ids[place] = baseline
    return text.row | {"input_ids": ids}
