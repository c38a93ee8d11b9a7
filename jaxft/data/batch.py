"""Fill the arrays of a batch from a plan that says where each example goes.

Letters: m examples, r rows, k predictions of a row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from jaxft.data.encoded import Arrays, Encoded, prediction_key, starts
from jaxft.data.example import Example

PER_TOKEN = ("tokens", "types")
PER_PREDICTION = ("at", "decoder_tokens", "targets", "weights", "bytes", "digests")
PER_PAIR = ("pair_at", "pair_targets", "pair_weights")
POSITIONS = ("at", "pair_at")  # keys that hold positions in a row
PADDED = ("tokens", "decoder_tokens")
DTYPES = dict.fromkeys(("pair_weights", "weights"), np.float32)

RandomTransform = Callable[[Example, np.random.Generator], Example]  # what happens to an example at each visit


@dataclass
class Plan:
    """Where the examples of one batch go. All arrays are (m,)."""

    members: np.ndarray  # index of the example in the window
    row: np.ndarray
    column: np.ndarray  # of the first token
    segment: np.ndarray  # number within the row, from 1
    first_prediction: np.ndarray  # index of its first prediction in the row
    reserved: np.ndarray  # predictions that the row reserves for it
    shape: tuple[int, int]  # rows, tokens per row
    predictions: int  # per row
    pairs: int = 1  # per row: the most examples that it may hold


class BatchAssembler:
    """Makes the batches of one host: a pure function of a plan, the example numbers and their random generators.

    A batch is cut into `host[1]` shards of consecutive rows; this host holds those numbered `host[0]`.
    """

    def __init__(
        self, encoded: Encoded, random_transform: RandomTransform | None, pad_id: int, host: tuple[tuple[int, ...], int]
    ):
        self.encoded, self.pad_id, self.host = encoded, pad_id, host
        self.random_transform = random_transform or _unchanged
        probe = self._transformed(0, np.random.default_rng(0))
        keys = [key for key in (*PER_TOKEN, "sub_texts", *PER_PREDICTION, *PER_PAIR) if key in probe]
        self.blank = {key: probe[key][:0].astype(_dtype(key, probe[key])) for key in keys}

    def fill(self, plan: Plan, numbers: np.ndarray, random: Callable[[int], np.random.Generator]) -> Arrays:
        """This host's rows of a batch (models/batch.py).

        `numbers` (window,) are example numbers, `random(place)` is the generator for the example at a place in it.
        """
        own, count = self.host
        rows = plan.shape[0] // count  # of a shard
        order = np.full(count, -1)
        order[list(own)] = np.arange(len(own))
        shard = order[plan.row // rows]
        mine = np.flatnonzero(shard >= 0)
        places = plan.members[mine]
        examples = [self._transformed(numbers[place], random(place)) for place in places]
        row = shard[mine] * rows + plan.row[mine] % rows
        return self._scatter(plan, mine, len(own) * rows, row, examples, numbers[places])

    def _transformed(self, number: int, rng: np.random.Generator) -> Arrays:
        # Encoded has removed all keys of an Example that are not arrays.
        return cast(Arrays, self.random_transform(cast(Example, self.encoded[number]), rng))

    def _scatter(
        self, plan: Plan, mine: np.ndarray, rows: int, row: np.ndarray, examples: list[Arrays], numbers: np.ndarray
    ) -> Arrays:
        flat = {
            key: np.concatenate([blank, *(e[key] for e in examples)]).astype(blank.dtype, copy=False)
            for key, blank in self.blank.items()
        }
        column, segment = plan.column[mine], plan.segment[mine]
        tokens = Scatter(_lengths(examples, "tokens"), row, column, (rows, plan.shape[1]))
        predictions = tokens
        if kind := prediction_key(flat):
            shape = (rows, plan.predictions)
            predictions = Scatter(_lengths(examples, kind), row, plan.first_prediction[mine], shape)
            if np.any(predictions.sizes > plan.reserved[mine]):
                raise ValueError("an example has more predictions than the task's `max_predictions` announced")
        groups = [(tokens, PER_TOKEN), (predictions, PER_PREDICTION)]
        if "pair_at" in flat:
            groups += [(Scatter(_lengths(examples, "pair_at"), row, segment - 1, (rows, plan.pairs)), PER_PAIR)]
        batch = {}
        for scatter, keys in groups:
            for key in [key for key in keys if key in flat]:
                values = flat[key] + scatter.repeat(column).astype(np.int32) if key in POSITIONS else flat[key]
                batch[key] = scatter.spread(values, self.pad_id if key in PADDED else 0)
        batch |= tokens.counted("", segment, flat.get("sub_texts"))
        if "sub_texts" in flat:
            batch["example_ids"] = predictions.spread(predictions.repeat(segment).astype(np.int32), 0)
        if "decoder_tokens" in flat:
            batch |= predictions.counted("decoder_", segment)
        batch["index"] = predictions.spread(predictions.repeat(numbers).astype(np.int32), -1)
        return batch


class Scatter:
    """Where the entries of m examples go in an array (rows, width): each example's in consecutive columns of its row.

    `sizes` (m,) are the entries of each example, `row` and `first` (m,) its row and its first column.
    """

    def __init__(self, sizes: np.ndarray, row: np.ndarray, first: np.ndarray, shape: tuple[int, int]):
        self.sizes, self.row, self.shape = sizes, row, shape
        self.within = _count_up(sizes)
        self.where = np.repeat(row * shape[1] + first, sizes) + self.within

    def repeat(self, values: np.ndarray) -> np.ndarray:
        """For each entry the value (m,) of its example."""
        return np.repeat(values, self.sizes)

    def spread(self, values: np.ndarray, fill: int) -> np.ndarray:
        """(rows, width, ...) that holds the entries `values`, and `fill` where no example has any."""
        out = np.full((math.prod(self.shape), *values.shape[1:]), fill, values.dtype)
        out[self.where] = values
        return out.reshape(*self.shape, *values.shape[1:])

    def counted(self, prefix: str, segment: np.ndarray, sub_texts: np.ndarray | None = None) -> Arrays:
        """Segments and positions, int32 (rows, width). Each sub-text of an example is a segment of its own."""
        segments, positions = self.repeat(segment), self.within
        if sub_texts is not None:
            begins = np.flatnonzero((positions == 0) | (np.diff(sub_texts, prepend=-1) != 0))
            lengths = np.diff(begins, append=len(sub_texts))
            positions = _count_up(lengths)
            row = self.repeat(self.row)[begins]
            order = np.lexsort((segments[begins], row))
            number = np.empty(len(begins), np.int64)
            number[order] = _count_up(np.bincount(row))
            segments = 1 + np.repeat(number, lengths)
        counted = {f"{prefix}segments": segments, f"{prefix}positions": positions}
        return {key: self.spread(values.astype(np.int32), 0) for key, values in counted.items()}


def _lengths(examples: list[Arrays], key: str) -> np.ndarray:
    """The number of entries (m,) that each example has under `key`."""
    return np.array([len(example[key]) for example in examples], np.int64)


def _unchanged(example: Example, rng: np.random.Generator) -> Example:
    return example


def _dtype(key: str, values: np.ndarray) -> DTypeLike:
    return DTYPES.get(key, np.float32 if values.dtype.kind == "f" else np.int32)


def _count_up(sizes: np.ndarray) -> np.ndarray:
    """0 1 2, 0 1, ... for pieces of the given sizes."""
    return np.arange(sizes.sum()) - np.repeat(starts(sizes)[:-1], sizes)
