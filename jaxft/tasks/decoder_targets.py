"""Inputs and targets of the decoder of an encoder-decoder model."""

import numpy as np

from jaxft.data.example import Example
from jaxft.problems import raise_problems
from jaxft.tasks.base import EncodingContext


def decoder_side(targets: np.ndarray, setting: EncodingContext) -> Example:
    """`decoder_tokens`, `targets` and `weights` of an example whose decoder learns `targets`, int (m,).

    The decoder's input is the targets shifted by one, after the model's start token.
    """
    start = targets[-1:] if setting.decoder_start == "last" else np.array([setting.decoder_start])
    before = np.append(start, targets[:-1]).astype(np.int32)
    return {"decoder_tokens": before, "targets": targets.astype(np.int32), "weights": np.ones(len(targets), np.float32)}


def check_decoder(setting: EncodingContext) -> None:
    """Raises UserError unless the model is an encoder-decoder model with a start token."""
    if setting.decoder_start is None:
        raise_problems(["this task needs an encoder-decoder model whose config.json has decoder_start_token_id"])
