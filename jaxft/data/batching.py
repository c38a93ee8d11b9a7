"""How examples become the rows of a batch: padded, packed, or cut from running text."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import Count
from jaxft.data.batch import Plan
from jaxft.data.encoded import Encoded
from jaxft.problems import UserError

SHAPES = 4  # numbers of rows that Pack aims at; steps outside of its sample may add one
UNIT = 8  # chosen row lengths are multiples of it, the sublanes of a TPU's vector register
ENDLESS = 2**60  # batches, or examples, of a run that has no end
WORTH = 16  # batches of the longest rows that a further row length must save in a run to be worth compiling for


@dataclass
class LengthStats:
    """The lengths that the rows of a run must hold."""

    lengths: np.ndarray  # (n,) tokens of each example after `random_transform`
    needs: np.ndarray  # (n,) the most predictions that each example has
    predictions: Callable[[int], int]  # row length -> predictions of a row that holds one example
    batch: int  # examples per step
    steps: int  # batches of the run, as it was planned at first
    multiple: int  # the number of rows must be a multiple of it
    max_len: int  # tokens of the longest example that may occur

    @property
    def epoch(self) -> int:
        """Batches per epoch."""
        return math.ceil(len(self.lengths) / self.batch)


Sample = Callable[[int], list[np.ndarray]]  # count -> example numbers of `count` batches, spread over the run


class Planner(Protocol):
    """Plans the batches of a run."""

    @property
    def window(self) -> int:
        """The most batches that are planned together."""

    def plan(self, numbers: np.ndarray, rng: np.random.Generator) -> list[Plan]:
        """Plans of the batches that hold the examples `numbers` (n,); the last batch may be short."""


class Batching(Protocol):
    """How examples become rows: the value of config.batching."""

    def max_example_length(self, max_len: int) -> int | None:
        """The most tokens that an example may have; None: no limit."""

    def prepare(self, encoded: Encoded) -> Encoded:
        """The examples that batches are made of."""

    def lengths(self, longest: np.ndarray, batches: int, max_len: int) -> tuple[int, ...]:
        """Row lengths, ascending, for `batches` batches whose longest examples have `longest` (batches,) tokens."""

    def planner(self, stats: LengthStats, sample: Sample) -> Planner:
        """What plans the batches of a run with these lengths. Raises UserError where an example does not fit."""


@config
class Pad:
    """One example per row. Rows have the length of the smallest bucket that holds the batch's longest example.

    Consecutive examples of one epoch, up to `window` batches of them, are sorted by length and cut into batches, and
    the batches are shuffled; with `window=1` nothing is sorted. Without `buckets`, at most `shapes` lengths are chosen
    that need the least padding for the data, each of which saves the work of 16 batches or more: it is compiled once,
    and that takes as long.
    """

    buckets: tuple[Count, ...] = ()  # row lengths in tokens; (): chosen for the data
    shapes: Count = 10  # the most row lengths to choose
    window: Count = 50  # batches whose examples are sorted together

    def problems(self) -> list[str]:
        if list(self.buckets) == sorted(set(self.buckets)):
            return []
        return [f"buckets are {self.buckets}, expected lengths that increase"]

    def max_example_length(self, max_len: int) -> int | None:
        return min(max_len, self.buckets[-1]) if self.buckets else max_len

    def prepare(self, encoded: Encoded) -> Encoded:
        return encoded

    def lengths(self, longest: np.ndarray, batches: int, max_len: int) -> tuple[int, ...]:
        return self.buckets or choose_buckets(longest, self.shapes, max_len, batches)

    def planner(self, stats: LengthStats, sample: Sample) -> Planner:
        window = math.ceil(stats.epoch / math.ceil(stats.epoch / self.window))
        sorted_lengths = [np.sort(stats.lengths[numbers]) for numbers in sample(window)]
        longest = np.concatenate([x.reshape(window, stats.batch).max(1) for x in sorted_lengths])
        longest = np.append(longest, stats.lengths.max())  # in case the sample missed it
        return _Sorted(stats, self.lengths(longest, stats.steps, stats.max_len), window)


@config
class Pack:
    """Rows of `length` tokens that hold several examples each. A batch has as many examples as without packing.

    The examples of a batch are placed longest first, each into the fullest row that still holds it (best fit
    decreasing; Johnson 1974). Empty rows are added so that a run has few distinct numbers of rows.
    """

    length: Count  # tokens of a row

    def max_example_length(self, max_len: int) -> int | None:
        return min(max_len, self.length)

    def prepare(self, encoded: Encoded) -> Encoded:
        return encoded

    def lengths(self, longest: np.ndarray, batches: int, max_len: int) -> tuple[int, ...]:
        return Pad().lengths(longest, batches, max_len)

    def planner(self, stats: LengthStats, sample: Sample) -> Planner:
        check_lengths(stats.lengths, self.length)
        return _Packed(stats, self.length, sample(1))


@config
class Chunk:
    """Rows of exactly `length` tokens, cut from the concatenated texts; the rest is dropped and reported."""

    length: Count  # tokens of a row

    def max_example_length(self, max_len: int) -> int | None:
        return None

    def prepare(self, encoded: Encoded) -> Encoded:
        """The chunks as examples; `source` is the chunk's number. The report gets `chunks` and `left`."""
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
        report = replace(encoded.report, chunks=count, left=total - count * self.length)
        return Encoded(flat, dict.fromkeys(flat, cuts), np.arange(count, dtype=np.int32), report)

    def lengths(self, longest: np.ndarray, batches: int, max_len: int) -> tuple[int, ...]:
        return (int(longest.max()),)  # `random_transform` may make examples shorter than the chunks

    def planner(self, stats: LengthStats, sample: Sample) -> Planner:
        return _Sorted(stats, self.lengths(stats.lengths, stats.steps, stats.max_len), 1)


def choose_buckets(longest: np.ndarray, most: int, max_len: int, batches: int = ENDLESS) -> tuple[int, ...]:
    """At most `most` row lengths that need the least padding for batches whose longest examples are given.

    These stand for `batches` batches, in which the last of the lengths must save WORTH batches of the longest rows.
    Lengths are multiples of UNIT, or `max_len`. Dynamic programming over the distinct lengths: for a given largest
    length, the best choice of k + 1 lengths contains the best choice of k lengths below it.
    """
    needed = np.minimum(-(-longest // UNIT) * UNIT, max(max_len, longest.max()))
    sizes, counts = np.unique(needed, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: tokens a batch row of the batches that need at most sizes[j - 1], with the lengths chosen so far.
    cost = np.where(below > 0, np.inf, 0.0)
    choices: list[np.ndarray] = []
    for _ in range(min(most, len(sizes))):
        before = cost[-1]
        options = cost[:-1, None] + sizes * (below[1:] - below[:-1, None])  # [i, j]: the next length serves i + 1 .. j
        options[np.tril_indices(len(sizes), -1)] = np.inf
        saved = (before - options[:, -1].min()) / (sizes[-1] * below[-1])  # a share of the longest rows
        if choices and saved * batches < WORTH:
            break
        choices.append(options.argmin(0))
        cost = np.concatenate([[0.0], options.min(0)])
    chosen, j = [], len(sizes)
    while j > 0:
        chosen.append(int(sizes[j - 1]))
        j = int(choices.pop()[j - 1])
    return tuple(chosen[::-1])


def one_per_row(
    members: np.ndarray, lengths: np.ndarray, buckets: tuple[int, ...], rows: int, predictions: Callable[[int], int]
) -> Plan:
    """A plan with one example per row; `lengths` are those of the members. Rows beyond the members stay empty."""
    length = buckets[int(np.searchsorted(buckets, lengths.max()))]
    zeros, count = np.zeros(len(members), np.int64), predictions(length)
    reserved = np.full(len(members), count)
    return Plan(members, np.arange(len(members)), zeros, zeros + 1, zeros, reserved, (rows, length), count)


def check_lengths(lengths: np.ndarray, longest: int) -> None:
    over = int(np.sum(lengths > longest))
    if over:
        raise UserError(
            f"{over} examples have more than {longest} tokens, the longest {lengths.max()}: set a larger row length, "
            "or a smaller max_len to cut examples off"
        )


class _Sorted:
    def __init__(self, stats: LengthStats, buckets: tuple[int, ...], window: int):
        check_lengths(stats.lengths, buckets[-1])
        if stats.batch % stats.multiple:
            raise UserError(f"batch {stats.batch} is not a multiple of {stats.multiple} (devices times micro-batches)")
        self.stats, self.buckets, self.window = stats, buckets, window

    def plan(self, numbers: np.ndarray, rng: np.random.Generator) -> list[Plan]:
        stats = self.stats
        lengths = stats.lengths[numbers]
        order = np.argsort(lengths, kind="stable") if self.window > 1 else np.arange(len(numbers))
        batches = np.split(order, range(stats.batch, len(order), stats.batch))
        chosen = [batches[i] for i in rng.permutation(len(batches))]
        return [
            one_per_row(members, lengths[members], self.buckets, stats.batch, stats.predictions) for members in chosen
        ]


class _Packed:
    window = 1

    def __init__(self, stats: LengthStats, length: int, sample: list[np.ndarray]):
        self.stats, self.length = stats, length
        self.predictions = length if stats.needs is stats.lengths else self._choose_predictions(sample)
        self.pairs = max(1, min(self.predictions, length // int(stats.lengths.min())))
        used = [1 + self._place(numbers)[0].max() for numbers in sample]
        self.quantum = stats.multiple
        while math.ceil(max(used) / self.quantum) - math.ceil(min(used) / self.quantum) >= SHAPES:
            self.quantum += stats.multiple
        self.fewest = min(used)  # a short batch has no shape of its own

    def plan(self, numbers: np.ndarray, rng: np.random.Generator) -> list[Plan]:
        row, column, segment, first_prediction = self._place(numbers)
        rows = math.ceil(max(1 + row.max(), self.fewest) / self.quantum) * self.quantum
        reserved, members = self.stats.needs[numbers], np.arange(len(numbers))
        shape = (rows, self.length)
        return [Plan(members, row, column, segment, first_prediction, reserved, shape, self.predictions, self.pairs)]

    def _choose_predictions(self, sample: list[np.ndarray]) -> int:
        """Predictions per row: up to a tenth more than any row of the sample needs if only its length is limited."""
        self.predictions, most = self.length * len(sample[0]), int(self.stats.needs.max())
        for numbers in sample:
            row, *_ = self._place(numbers)
            most = max(most, int(np.bincount(row, self.stats.needs[numbers]).max()))
        return max(int(self.stats.needs.max()), min(math.floor(1.1 * most), self.length))

    def _place(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return best_fit(self.stats.lengths[numbers], self.stats.needs[numbers], self.length, self.predictions)


def best_fit(
    lengths: np.ndarray, needs: np.ndarray, length: int, predictions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row, column, segment and first prediction of each example, all (m,).

    Longest first, equal ones in their order, each into the row that has the fewest free tokens after it. A row has
    `length` tokens and `predictions` predictions, of which an example takes `needs`.
    """
    count = len(lengths)
    row, column, segment, first = np.zeros((4, count), np.int64)
    tokens_left, predictions_left = np.full(count, length), np.full(count, predictions)
    examples = np.zeros(count, np.int64)  # in each row
    opened = 1
    for i in np.argsort(-lengths, kind="stable"):
        left = tokens_left[:opened] - lengths[i]
        left[(left < 0) | (predictions_left[:opened] < needs[i])] = length + 1
        best = int(left.argmin())
        if left[best] > length:
            best, opened = opened, opened + 1
        row[i], column[i], first[i] = best, length - tokens_left[best], predictions - predictions_left[best]
        examples[best] += 1
        segment[i] = examples[best]
        tokens_left[best] -= lengths[i]
        predictions_left[best] -= needs[i]
    return row, column, segment, first
