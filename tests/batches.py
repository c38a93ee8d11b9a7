"""Batches of packed and padded texts, and of images or sounds, for models of every kind. Imports no PyTorch."""

from typing import Any, NamedTuple

import numpy as np

from jaxft.models.heads import READ_AGAIN, TEXT_LEVEL
from jaxft.models.layers.patches import AudioFrames, Patches
from jaxft.models.spec import Spec

END = 2  # eos_token_id of the models of zoo.py
LENGTH = 13
TEXTS = [(0, 0, 13), (1, 0, 9), (2, 4, 9), (3, 0, 5), (3, 5, 8)]  # row, first place, length
TARGETS = [(0, 2, 7), (1, 0, 4), (2, 0, 9), (3, 0, 6), (3, 6, 3)]  # of a decoder: row, first place, length


def batch_of(reads: str | None, seed=0, ends=False):
    """(the texts' token numbers, the batch that holds them). `reads`: the token of each text that the head reads.

    `ends`: the texts end with the token by which transformers finds their end.
    """
    rng = np.random.default_rng(seed)
    texts = [rng.integers(5, 100, length) for _, _, length in TEXTS]
    for ids in texts if ends else []:
        ids[-1] = END
    batch = {name: np.zeros((4, LENGTH), np.int32) for name in ("tokens", "segments", "positions")}
    at = np.zeros((4, 2), np.int32)
    for ids, (row, start, length) in zip(texts, TEXTS, strict=True):
        place = slice(start, start + length)
        segment = batch["segments"][row].max() + 1
        batch["tokens"][row, place], batch["segments"][row, place] = ids, segment
        batch["positions"][row, place] = np.arange(length)
        at[row, segment - 1] = start if reads == "first" else start + length - 1
    return texts, batch | ({} if reads is None else {"at": at})


def targets_of(seed=1):
    """(the texts that a decoder reads, the batch that holds them); the rows are those of the encoder's texts."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(5, 100, length) for _, _, length in TARGETS]
    batch = {"decoder_" + name: np.zeros((4, 9), np.int32) for name in ("tokens", "segments", "positions")}
    for ids, (row, start, length) in zip(texts, TARGETS, strict=True):
        place = slice(start, start + length)
        batch["decoder_segments"][row, place] = batch["decoder_segments"][row].max() + 1
        batch["decoder_tokens"][row, place], batch["decoder_positions"][row, place] = ids, np.arange(length)
    return texts, batch


def signals_of(embed, decodes: bool):
    """(a batch of three images or sounds, what a decoder reads for each, where in a row of hidden states they stand)"""
    rng = np.random.default_rng(0)
    batch = {embed.key: rng.standard_normal((3, *embed.shape)).astype(np.float32)}
    ones = np.ones((3, embed.length), np.int32)
    batch |= {"segments": ones, "positions": np.cumsum(ones, 1, dtype=np.int32) - 1}
    if not decodes:
        return batch | {"at": np.zeros((3, 1), np.int32)}, [None] * 3, [(row, 0, embed.length) for row in range(3)]
    texts, decoder = targets_of()
    return batch | {name: rows[:3] for name, rows in decoder.items()}, texts[:3], TARGETS[:3]


class Inputs(NamedTuple):
    """A batch for jaxft, and the same texts one by one for PyTorch."""

    batch: dict[str, np.ndarray]
    single: list[np.ndarray]  # token ids of each text, or an image or a sound
    decoded: list[Any]  # token ids that a decoder reads for each of them, or None
    places: list[tuple[int, int, int]]  # of their hidden states: row, first place, length
    reads: str | None  # the token of each text that the head reads; None: all


def inputs_of(spec: Spec, head: str) -> Inputs:
    """Inputs of a model of zoo.py with this backbone and head."""
    reads = spec.pool_token if head in TEXT_LEVEL else None
    embed, decodes = spec.input_side.embed, spec.encoder is not None
    if isinstance(embed, Patches | AudioFrames):
        batch, decoded, places = signals_of(embed, decodes)
        kept = {name: array for name, array in batch.items() if name != "at" or reads}
        return Inputs(kept, list(batch[embed.key]), decoded, places, reads)
    texts, batch = batch_of(reads, ends=decodes)
    if not decodes or head in READ_AGAIN:
        return Inputs(batch, texts, [None] * len(texts), TEXTS, reads)
    decoded, decoder_batch = targets_of()
    return Inputs(batch | decoder_batch, texts, decoded, TARGETS, reads)


def of_texts(rows, reads, texts=TEXTS):
    """The pieces of an array (row, place or slot, ...) that belong to the texts, in their order."""
    if reads is None:
        return [rows[row, start : start + length] for row, start, length in texts]
    return [rows[row, int(start > 0 and row == 3)][None] for row, start, _ in texts]
