"""Fill the arrays of a batch from a plan that says where each example goes.

Letters: m examples, r rows, k slots of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxft.data.encoded import Encoded, Example, starts

DTYPES = {"tokens": np.int32, "types": np.int32, "at": np.int32, "weights": np.float32}
PER_TOKEN = ("tokens", "types")


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


class Filler:
    """Makes the batches of one host: a pure function of a plan, the examples' numbers and their random generators."""

    def __init__(self, encoded: Encoded, draw: Callable | None, pad_id: int, host: tuple[int, int]):
        self.encoded, self.draw, self.pad_id, self.host = encoded, draw or _as_it_is, pad_id, host
        probe = self.draw(encoded[0], np.random.default_rng(0))
        keys = [key for key in ("tokens", "types", "at", "targets", "weights") if key in probe]
        self.blank = {key: probe[key][:0].astype(_dtype(key, probe[key])) for key in keys}

    def fill(self, plan: Plan, numbers: np.ndarray, random: Callable[[int], np.random.Generator]) -> Example:
        """This host's rows. `numbers` (window,) are example numbers, `random(place)` is the generator of a place."""
        index, count = self.host
        rows = plan.shape[0] // count
        mine = np.flatnonzero(plan.row // rows == index)
        places = plan.members[mine]
        examples = [self.draw(self.encoded[numbers[place]], random(place)) for place in places]
        flat = {key: np.concatenate([blank, *(e[key] for e in examples)]) for key, blank in self.blank.items()}
        return self._scatter(plan, mine, rows, plan.row[mine] - index * rows, flat, examples, numbers[places])

    def _scatter(self, plan, mine, rows, row, flat, examples, owner) -> Example:
        length, width = plan.shape[1], plan.slots
        sizes = np.array([len(example["tokens"]) for example in examples], np.int64)
        within = _count_up(sizes)
        token = np.repeat(row * length + plan.column[mine], sizes) + within
        ones = {"segments": np.repeat(plan.segment[mine], sizes), "positions": within}
        slot, counts = token, sizes
        if "at" in flat:
            counts = np.array([len(example["at"]) for example in examples], np.int64)
            if np.any(counts > plan.room[mine]):
                raise ValueError("an example has more head slots than the task's `slots` announced")
            slot = np.repeat(row * width + plan.slot[mine], counts) + _count_up(counts)
            flat["at"] = flat["at"] + np.repeat(plan.column[mine], counts)
        batch = {key: _spread(flat[key], token, rows, length, self.pad_id if key == "tokens" else 0)
                 for key in PER_TOKEN if key in flat}  # fmt: skip
        batch |= {key: _spread(values.astype(np.int32), token, rows, length, 0) for key, values in ones.items()}
        batch |= {key: _spread(flat[key], slot, rows, width, 0) for key in flat if key not in PER_TOKEN}
        batch["index"] = _spread(np.repeat(owner, counts).astype(np.int32), slot, rows, width, -1)
        return {key: batch[key] if key == "index" else _typed(batch[key], key, self.blank) for key in batch}


def _as_it_is(example, rng):
    return example


def _dtype(key: str, values: np.ndarray):
    return DTYPES.get(key, np.float32 if values.dtype.kind == "f" else np.int32)


def _typed(values, key, blank):
    return values.astype(blank[key].dtype, copy=False) if key in blank else values


def _count_up(sizes: np.ndarray) -> np.ndarray:
    """0 1 2, 0 1, ... for pieces of the given sizes."""
    return np.arange(sizes.sum()) - np.repeat(starts(sizes)[:-1], sizes)


def _spread(values: np.ndarray, where: np.ndarray, rows: int, width: int, empty) -> np.ndarray:
    """(rows, width, ...) that holds `values` at the flat positions `where`, and `empty` elsewhere."""
    out = np.full((rows * width, *values.shape[1:]), empty, values.dtype)
    out[where] = values
    return out.reshape(rows, width, *values.shape[1:])
