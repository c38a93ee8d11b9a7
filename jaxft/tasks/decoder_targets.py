"""What a decoder behind an encoder reads and learns."""

import numpy as np

from jaxft.problems import raise_problems
from jaxft.tasks.base import EncodingContext


def decoder_side(targets: np.ndarray, setting: EncodingContext) -> dict[str, np.ndarray]:
    """`decoder_tokens`, `targets` and `weights` of an example whose decoder learns `targets`, int (k,).

    It reads what it has to say one place later, behind the token that its model begins with.
    """
    start = targets[-1] if setting.decoder_start == "last" else setting.decoder_start
    before = np.append(start, targets[:-1]).astype(np.int32)
    return {"decoder_tokens": before, "targets": targets.astype(np.int32), "weights": np.ones(len(targets), np.float32)}


def check_decoder(setting: EncodingContext) -> None:
    """Raises UserError unless the model has a decoder behind an encoder, and says what its texts begin with."""
    if setting.decoder_start is None:
        raise_problems(
            [
                "this task is for an encoder with a decoder behind it, whose config.json says how texts begin "
                "(decoder_start_token_id)"
            ]
        )
