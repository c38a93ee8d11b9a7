"""How examples become the rows of a batch: padded, packed, or cut from running text.

A row builder has four methods. `cut` is the most tokens that an example may keep (None: all); `prepare` may turn the
encoded examples into others; `planner` looks at the data once and returns what plans the batches of a run; `lengths`
chooses the row lengths of batches whose longest examples are known, as those of an evaluation are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import Count
from jaxft.data.batch import Plan
from jaxft.data.encoded import Encoded
from jaxft.problems import UserError

SHAPES = 4  # numbers of rows that Pack aims at; steps outside of its sample may add one
UNIT = 8  # chosen row lengths are multiples of it, the sublanes of a TPU's vector register
WORTH = 8  # batches that a further row length must serve, on average, to be worth compiling for


@dataclass
class LengthStats:
    """What the rows of a run must hold."""

    lengths: np.ndarray  # (n,) tokens of each example, once it is drawn
    needs: np.ndarray  # (n,) most head slots that it uses
    slots: Callable[[int], int]  # head slots of a row of so many tokens that holds one example
    batch: int  # examples of a step
    multiple: int  # a batch's rows must divide by it
    max_len: int  # tokens of the longest example that may occur

    @property
    def epoch(self) -> int:
        """Batches until every example was seen once."""
        return math.ceil(len(self.lengths) / self.batch)


Sample = Callable[[int], list[np.ndarray]]  # numbers of the examples in so many batches, from places all over the run


class Planner(Protocol):
    window: int  # batches, at most, that are planned together

    def plan(self, numbers: np.ndarray, rng: np.random.Generator) -> list[Plan]:
        """Plans of the batches that hold the examples `numbers` (n,), of which the last may be short."""


@config
class Pad:
    """One example a row, as long as the smallest bucket that holds the batch's longest example.

    Up to `window` batches' worth of consecutive examples of one epoch are sorted by length before they are cut into
    batches, and the batches are shuffled; 1: no sorting. `buckets` () are chosen for the data, so that the least
    padding is needed: at most `shapes` of them, each of which is compiled for, and fewer for fewer than 80 batches.
    """

    buckets: tuple[Count, ...] = ()
    shapes: Count = 10
    window: Count = 50

    def problems(self) -> list[str]:
        if list(self.buckets) == sorted(set(self.buckets)):
            return []
        return [f"buckets are {self.buckets}, expected lengths that increase"]

    def cut(self, max_len: int) -> int | None:
        return min(max_len, self.buckets[-1]) if self.buckets else max_len

    def prepare(self, encoded: Encoded) -> Encoded:
        return encoded

    def lengths(self, longest: np.ndarray, batches: int, max_len: int) -> tuple[int, ...]:
        return self.buckets or choose_buckets(longest, min(self.shapes, math.ceil(batches / WORTH)), max_len)

    def planner(self, demand: LengthStats, sample: Sample) -> Planner:
        window = math.ceil(demand.epoch / math.ceil(demand.epoch / self.window))
        sorted_lengths = [np.sort(demand.lengths[numbers]) for numbers in sample(window)]
        longest = np.concatenate([x.reshape(window, demand.batch).max(1) for x in sorted_lengths])
        longest = np.append(longest, demand.lengths.max())  # whatever the sample has missed
        return _Sorted(demand, self.lengths(longest, demand.epoch, demand.max_len), window)


@config
class Pack:
    """Rows of `length` tokens that hold several examples each, a batch being as many examples as without packing.

    The examples of a batch are placed longest first, each into the fullest row that has the room (best fit
    decreasing; Johnson 1974). Rows are added until few distinct numbers of rows occur in a run.
    """

    length: Count

    def cut(self, max_len: int) -> int | None:
        return min(max_len, self.length)

    def prepare(self, encoded: Encoded) -> Encoded:
        return encoded

    def lengths(self, longest: np.ndarray, batches: int, max_len: int) -> tuple[int, ...]:
        return Pad().lengths(longest, batches, max_len)

    def planner(self, demand: LengthStats, sample: Sample) -> Planner:
        check_lengths(demand.lengths, self.length)
        return _Packed(demand, self.length, sample(1))


@config
class Chunk:
    """Rows of exactly `length` tokens, cut from all texts in a row; what is left at the end is dropped and reported."""

    length: Count

    def cut(self, max_len: int) -> int | None:
        return None

    def prepare(self, encoded: Encoded) -> Encoded:
        """Examples that are chunks; `source` is the number of the chunk. The report gains `chunks` and `left`."""
        bad = [key for key, where in encoded.offsets.items() if not np.array_equal(where, encoded.offsets["tokens"])]
        if bad:
            raise UserError(
                f"running text cannot be cut into chunks: {', '.join(bad)} is not per token. Use Pad or Pack."
            )
        total = len(encoded.flat["tokens"])
        count = total // self.length
        if count == 0:
            raise UserError(f"{total} tokens in all do not fill one chunk of {self.length}: set a smaller length")
        flat = {key: values[: count * self.length] for key, values in encoded.flat.items()}
        cuts = np.arange(count + 1, dtype=np.int64) * self.length
        report = encoded.report | {"chunks": count, "left": total - count * self.length}
        return Encoded(flat, dict.fromkeys(flat, cuts), np.arange(count, dtype=np.int32), report)

    def lengths(self, longest: np.ndarray, batches: int, max_len: int) -> tuple[int, ...]:
        return (int(longest.max()),)  # what a task draws may be shorter than the chunks

    def planner(self, demand: LengthStats, sample: Sample) -> Planner:
        return _Sorted(demand, self.lengths(demand.lengths, demand.epoch, demand.max_len), 1)


def choose_buckets(longest: np.ndarray, most: int, max_len: int) -> tuple[int, ...]:
    """At most `most` row lengths with which batches, whose longest examples are given, need the least padding.

    Multiples of UNIT, or `max_len`. By dynamic programming over the distinct lengths: the best choice of k + 1 lengths,
    the largest of them known, is the best choice of k lengths below it.
    """
    needed = np.minimum(-(-longest // UNIT) * UNIT, max(max_len, longest.max()))
    sizes, counts = np.unique(needed, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: tokens a batch row of the batches that need at most sizes[j - 1], with the lengths chosen so far.
    cost = np.where(below > 0, np.inf, 0.0)
    choices = []
    for _ in range(min(most, len(sizes))):
        options = cost[:-1, None] + sizes * (below[1:] - below[:-1, None])  # [i, j]: the next length serves i + 1 .. j
        options[np.tril_indices(len(sizes), -1)] = np.inf
        choices.append(options.argmin(0))
        cost = np.concatenate([[0.0], options.min(0)])
    chosen, j = [], len(sizes)
    while j > 0:
        chosen.append(int(sizes[j - 1]))
        j = int(choices.pop()[j - 1])
    return tuple(chosen[::-1])


def one_per_row(members: np.ndarray, lengths: np.ndarray, buckets: tuple[int, ...], rows: int, slots: Callable) -> Plan:
    """A plan with one example a row; `lengths` are those of the members. Rows beyond the members stay empty."""
    length = buckets[int(np.searchsorted(buckets, lengths.max()))]
    zeros = np.zeros(len(members), np.int64)
    room = np.full(len(members), slots(length))
    return Plan(members, np.arange(len(members)), zeros, zeros + 1, zeros, room, (rows, length), slots(length))


def check_lengths(lengths: np.ndarray, longest: int) -> None:
    over = int(np.sum(lengths > longest))
    if over:
        raise UserError(
            f"{over} examples have more than {longest} tokens, the longest {lengths.max()}: set a larger row length, "
            "or a smaller max_len to cut examples off"
        )


class _Sorted:
    def __init__(self, demand: LengthStats, buckets: tuple[int, ...], window: int):
        check_lengths(demand.lengths, buckets[-1])
        if demand.batch % demand.multiple:
            raise UserError(
                f"batch {demand.batch} is not a multiple of {demand.multiple} (devices times micro-batches)"
            )
        self.demand, self.buckets, self.window = demand, buckets, window

    def plan(self, numbers, rng):
        demand = self.demand
        lengths = demand.lengths[numbers]
        order = np.argsort(lengths, kind="stable") if self.window > 1 else np.arange(len(numbers))
        batches = np.split(order, range(demand.batch, len(order), demand.batch))
        chosen = [batches[i] for i in rng.permutation(len(batches))]
        return [one_per_row(members, lengths[members], self.buckets, demand.batch, demand.slots) for members in chosen]


class _Packed:
    window = 1

    def __init__(self, demand: LengthStats, length: int, sample: list[np.ndarray]):
        self.demand, self.length = demand, length
        self.slots = length if demand.needs is demand.lengths else self._choose_slots(sample)
        self.pairs = max(1, min(self.slots, length // int(demand.lengths.min())))
        used = [1 + self._place(numbers)[0].max() for numbers in sample]
        self.quantum = demand.multiple
        while math.ceil(max(used) / self.quantum) - math.ceil(min(used) / self.quantum) >= SHAPES:
            self.quantum += demand.multiple
        self.fewest = min(used)  # a short batch has no shape of its own

    def plan(self, numbers, rng):
        row, column, segment, slot = self._place(numbers)
        rows = math.ceil(max(1 + row.max(), self.fewest) / self.quantum) * self.quantum
        room = self.demand.needs[numbers]
        shape = (rows, self.length)
        return [Plan(np.arange(len(numbers)), row, column, segment, slot, room, shape, self.slots, self.pairs)]

    def _choose_slots(self, sample) -> int:
        """Slots of a row: up to a tenth more than any row of the sample would use if slots did not count."""
        self.slots, most = self.length * len(sample[0]), int(self.demand.needs.max())
        for numbers in sample:
            row, *_ = self._place(numbers)
            most = max(most, int(np.bincount(row, self.demand.needs[numbers]).max()))
        return max(int(self.demand.needs.max()), min(math.floor(1.1 * most), self.length))

    def _place(self, numbers):
        return best_fit(self.demand.lengths[numbers], self.demand.needs[numbers], self.length, self.slots)


def best_fit(lengths: np.ndarray, needs: np.ndarray, length: int, slots: int):
    """Row, column, segment and first slot of each example, all (m,).

    Longest first, equal ones in their order, each into the row where the fewest tokens stay free; a row has `length`
    tokens and `slots` slots, of which an example takes `needs`.
    """
    count = len(lengths)
    row, column, segment, slot = np.zeros((4, count), np.int64)
    tokens_left, slots_left, inside = np.full(count, length), np.full(count, slots), np.zeros(count, np.int64)
    opened = 1
    for i in np.argsort(-lengths, kind="stable"):
        left = tokens_left[:opened] - lengths[i]
        left[(left < 0) | (slots_left[:opened] < needs[i])] = length + 1
        best = int(left.argmin())
        if left[best] > length:
            best, opened = opened, opened + 1
        row[i], column[i], slot[i] = best, length - tokens_left[best], slots - slots_left[best]
        inside[best] += 1
        segment[i] = inside[best]
        tokens_left[best] -= lengths[i]
        slots_left[best] -= needs[i]
    return row, column, segment, slot
