"""From the arguments of a loaded model to arrays of a batch (models/batch.py)."""

import numpy as np
from numpy.typing import ArrayLike

from jaxft.models.checkpoint.pretrained import Architecture
from jaxft.models.heads import READ_AGAIN
from jaxft.problems import raise_problems


def decoder_arrays(arch: Architecture, source: np.ndarray, given: dict[str, ArrayLike | None]) -> dict[str, np.ndarray]:
    """The decoder's keys of a batch; {} if it reads the same text, or if there is no decoder.

    `given` are its token ids and their mask, by the names of their arguments.
    """
    (name, ids), (_, mask) = given.items()
    again, encodes = arch.kind in READ_AGAIN, arch.spec.encoder is not None
    if ids is None:
        missing = encodes and not again
        raise_problems(["decoder_input_ids are missing: give the text that the decoder reads"] if missing else [])
        raise_problems(
            ["decoder_attention_mask is given without decoder_input_ids: give both"] if mask is not None else []
        )
        return {}
    if not encodes or again:
        raise_problems([f"decoder_input_ids are given, but a {arch.kind} model of this family does not read them"])
    ids = np.asarray(ids, np.int32)
    mask = np.ones_like(ids) if mask is None else np.asarray(mask, np.int32)
    fixed = not arch.spec.is_dual_encoder  # whether the batch must be that of the encoder
    if ids.ndim != 2 or (fixed and ids.shape[0] != source.shape[0]) or mask.shape != ids.shape:
        rows = f", with the batch of {arch.spec.input_side.embed.argument}, {source.shape[0]}" if fixed else ""
        raise_problems([f"{name} have shape {ids.shape}, their mask {mask.shape}: both must be (batch, length){rows}"])
    return {"decoder_tokens": ids, "decoder_segments": mask, "decoder_positions": counted(mask)}


def counted(mask: np.ndarray) -> np.ndarray:
    """Positions (batch, length): the number of tokens before each in its row."""
    return np.maximum(np.cumsum(mask, 1) - 1, 0).astype(np.int32)


def read_positions(mask: np.ndarray, pool_token: str) -> np.ndarray:
    """Position (batch, 1) of the "first" or "last" token of each row."""
    first = mask.argmax(1)
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
    return (first if pool_token == "first" else last)[:, None].astype(np.int32)
