"""Fill the arrays of a batch from a plan that says where each example goes.

Letters: m examples, r rows, k slots of a row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxft.data.encoded import Encoded, Example, slot_key, starts

PER_TOKEN = ("tokens", "types")
PER_SLOT = ("at", "decoder_tokens", "targets", "weights", "bytes", "digests")
PER_PAIR = ("pair_at", "pair_targets", "pair_weights")
PLACES = ("at", "pair_at")  # keys that hold places in a row
PADDED = ("tokens", "decoder_tokens")
DTYPES = dict.fromkeys(("pair_weights", "weights"), np.float32)


@dataclass
class Plan:
    """Where the examples of one batch go. All arrays are (m,)."""

    members: np.ndarray  # which example, by its place in the window
    row: np.ndarray
    column: np.ndarray  # of the first token
    segment: np.ndarray  # number within the row, from 1
    slot: np.ndarray  # first head slot
    room: np.ndarray  # slots that are kept for it
    shape: tuple[int, int]  # rows, tokens of a row
    slots: int  # of a row
    pairs: int = 1  # of a row: how many examples it may hold


class BatchAssembler:
    """Makes the batches of one host: a pure function of a plan, the examples' numbers and their random generators.

    `host` says which pieces of a batch it holds, and in how many pieces of consecutive rows a batch is cut.
    """

    def __init__(
        self, encoded: Encoded, random_transform: Callable | None, pad_id: int, host: tuple[tuple[int, ...], int]
    ):
        self.encoded, self.pad_id, self.host = encoded, pad_id, host
        self.random_transform = random_transform or _as_it_is
        probe = self.random_transform(encoded[0], np.random.default_rng(0))
        keys = [key for key in (*PER_TOKEN, "parts", *PER_SLOT, *PER_PAIR) if key in probe]
        self.blank = {key: probe[key][:0].astype(_dtype(key, probe[key])) for key in keys}

    def fill(self, plan: Plan, numbers: np.ndarray, random: Callable[[int], np.random.Generator]) -> Example:
        """This host's rows. `numbers` (window,) are example numbers, `random(place)` is the generator of a place."""
        own, count = self.host
        rows = plan.shape[0] // count  # of a piece
        order = np.full(count, -1)
        order[list(own)] = np.arange(len(own))
        piece = order[plan.row // rows]
        mine = np.flatnonzero(piece >= 0)
        places = plan.members[mine]
        examples = [self.random_transform(self.encoded[numbers[place]], random(place)) for place in places]
        row = piece[mine] * rows + plan.row[mine] % rows
        return self._scatter(plan, mine, len(own) * rows, row, examples, numbers[places])

    def _scatter(self, plan, mine, rows, row, examples, owner) -> Example:
        flat = {
            key: np.concatenate([blank, *(e[key] for e in examples)]).astype(blank.dtype, copy=False)
            for key, blank in self.blank.items()
        }
        column, segment = plan.column[mine], plan.segment[mine]
        tokens = Scatter(sizes(examples, "tokens"), row, column, (rows, plan.shape[1]))
        slots, pairs = tokens, None
        if kind := slot_key(flat):
            slots = Scatter(sizes(examples, kind), row, plan.slot[mine], (rows, plan.slots))
            if np.any(slots.sizes > plan.room[mine]):
                raise ValueError("an example has more head slots than the task's `slots` announced")
        if "pair_at" in flat:
            pairs = Scatter(sizes(examples, "pair_at"), row, segment - 1, (rows, plan.pairs))
        for key in [key for key in PLACES if key in flat]:
            flat[key] = flat[key] + (pairs if key in PER_PAIR else slots).of(column).astype(np.int32)
        batch = {}
        for where, keys in ((tokens, PER_TOKEN), (slots, PER_SLOT), (pairs, PER_PAIR)):
            for key in keys:
                if key in flat:
                    batch[key] = where.spread(flat[key], self.pad_id if key in PADDED else 0)
        batch |= tokens.counted("", segment, flat.get("parts"))
        if "parts" in flat:
            batch["owners"] = slots.spread(slots.of(segment).astype(np.int32), 0)
        if "decoder_tokens" in flat:
            batch |= slots.counted("decoder_", segment)
        batch["index"] = slots.spread(slots.of(owner).astype(np.int32), -1)
        return batch


class Scatter:
    """Where the pieces of examples stand in an array (rows, width), one behind the other from a first place on."""

    def __init__(self, pieces: np.ndarray, row: np.ndarray, first: np.ndarray, shape: tuple[int, int]):
        self.sizes, self.row, self.shape = pieces, row, shape
        self.within = _count_up(pieces)
        self.where = np.repeat(row * shape[1] + first, pieces) + self.within

    def of(self, values: np.ndarray) -> np.ndarray:
        """The value of its example, for each entry."""
        return np.repeat(values, self.sizes)

    def spread(self, values: np.ndarray, empty) -> np.ndarray:
        """(rows, width, ...) that holds `values`, and `empty` where no example has any."""
        out = np.full((math.prod(self.shape), *values.shape[1:]), empty, values.dtype)
        out[self.where] = values
        return out.reshape(*self.shape, *values.shape[1:])

    def counted(self, name: str, segment: np.ndarray, parts: np.ndarray | None = None) -> Example:
        """Segments and positions. Each of an example's parts is a segment, and its positions begin anew."""
        segments, positions = self.of(segment), self.within
        if parts is not None:
            begins = np.flatnonzero((positions == 0) | (np.diff(parts, prepend=-1) != 0))
            piece = np.diff(begins, append=len(parts))
            positions = _count_up(piece)
            order = np.lexsort((segments[begins], self.of(self.row)[begins]))
            number = np.empty(len(begins), np.int64)
            number[order] = _count_up(np.bincount(self.of(self.row)[begins]))
            segments = 1 + np.repeat(number, piece)
        ones = {f"{name}segments": segments, f"{name}positions": positions}
        return {key: self.spread(values.astype(np.int32), 0) for key, values in ones.items()}


def sizes(examples: list[Example], key: str) -> np.ndarray:
    """How many entries of `key` each example has."""
    return np.array([len(example[key]) for example in examples], np.int64)


def _as_it_is(example, rng):
    return example


def _dtype(key: str, values: np.ndarray):
    return DTYPES.get(key, np.float32 if values.dtype.kind == "f" else np.int32)


def _count_up(pieces: np.ndarray) -> np.ndarray:
    """0 1 2, 0 1, ... for pieces of the given sizes."""
    return np.arange(pieces.sum()) - np.repeat(starts(pieces)[:-1], pieces)
