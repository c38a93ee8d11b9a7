"""The batches of a run, and of an evaluation: pure functions of the seed and the number of the step."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import grain
import numpy as np
from grain.experimental import set_next_index

from jaxft.data.batch import BatchAssembler, Plan, RandomTransform
from jaxft.data.batching import ENDLESS, Batching, LengthStats, check_lengths, one_per_row
from jaxft.data.encoded import Arrays, Encoded, prediction_key
from jaxft.data.order import Order, Window
from jaxft.problems import UserError

EPOCHS, TRANSFORMS, WINDOWS, EVALUATIONS = range(4)  # independent random streams of one seed
SAMPLE = 64  # places of a run that a planner may look at


class Batches:
    """Training batches by step.

    Every epoch has each example exactly once, in a different order; a batch may reach into the next epoch, and the last
    one of a run may hold fewer examples, in arrays of the same shapes. What `random_transform` does to an example
    depends only on the seed and on the example's place in the stream of all epochs, so that packing, sorting,
    micro-batches and hosts change nothing.

    `host` is (shards, count): a batch has `count` shards of consecutive rows, and only the `shards` are built here. The
    number of rows is a multiple of `rows_multiple`, which is a multiple of `count`. `ends` gives, for a number of
    examples, the places at which the run ended and ends (data/order.py).
    """

    def __init__(
        self,
        encoded: Encoded,
        batching: Batching,
        batch: int,
        seed: int,
        random_transform: RandomTransform | None,
        max_predictions: Callable[[int], int | None],
        rows_multiple: int,
        max_len: int,
        pad_id: int,
        host: tuple[tuple[int, ...], int] = ((0,), 1),
        transformed_length: Callable[[int], int] | None = None,
        ends: Callable[[int], tuple[int, ...]] = lambda examples: (ENDLESS,),
    ):
        self.encoded = batching.prepare(encoded)
        self.batch, self.seed = batch, seed
        self._assembler = BatchAssembler(self.encoded, random_transform, pad_id, host)
        planned = ends(len(self.encoded))
        steps = -(-planned[0] // batch)
        stats = _length_stats(
            self._assembler, max_predictions, transformed_length, batch, steps, rows_multiple, max_len
        )
        self._stats = stats
        self._epoch = functools.lru_cache(maxsize=4)(self._shuffle)
        self._planner = batching.planner(stats, self._sample)
        self.order = Order(len(self.encoded), batch, planned, self._planner.window)
        # Grain's threads ask for neighbouring steps, hence for the same few windows.
        self._window = functools.lru_cache(maxsize=8)(self._plan_window)

    def __len__(self) -> int:
        return self.order.steps

    def __getitem__(self, step: int) -> Arrays:
        """This host's rows of the batch of a step (models/batch.py)."""
        plan, numbers, first = self._step(step)
        return self._assembler.fill(plan, numbers, lambda place: _random(TRANSFORMS, self.seed, first + int(place)))

    def examples(self, step: int) -> np.ndarray:
        """Source rows (m,) of a step's examples on all hosts, in the order of the stream or of their lengths."""
        plan, numbers, _ = self._step(step)
        return self.encoded.source[numbers[plan.members]]

    def fill(self, steps: int) -> float:
        """The share of tokens that are not padding, in the first `steps` batches."""
        return _fill(self._size(step) for step in range(steps))

    def shapes(self, steps: int) -> Counter[tuple[int, int]]:
        """How often each (rows, length) occurs in the first `steps` batches, over all hosts."""
        return Counter(self._step(step)[0].shape for step in range(steps))

    def _size(self, step: int) -> tuple[int, int]:
        """Tokens of the examples and of the rows of a step."""
        plan, numbers, _ = self._step(step)
        return int(self._stats.lengths[numbers[plan.members]].sum()), math.prod(plan.shape)

    def _step(self, step: int) -> tuple[Plan, np.ndarray, int]:
        """Plan of a step, example numbers of its window, and the window's place in the stream."""
        window = self.order.window(step)
        numbers, plans = self._window(window)
        return plans[step - window.first], numbers, window.start

    def _plan_window(self, window: Window) -> tuple[np.ndarray, list[Plan]]:
        numbers = self._stream(window.start, window.stop - window.start)
        return numbers, self._planner.plan(numbers, _random(WINDOWS, self.seed, window.first))

    def _stream(self, start: int, count: int) -> np.ndarray:
        """The `count` example numbers from place `start` of all epochs laid end to end."""
        size, stop = len(self.encoded), start + count
        epochs = range(start // size, (stop - 1) // size + 1)
        return np.concatenate([self._epoch(e)[max(start - e * size, 0) : stop - e * size] for e in epochs])

    def _shuffle(self, epoch: int) -> np.ndarray:
        # Not Grain's shuffle: it needs 10 us an example, and more the fewer there are: 1.5 ms with 23, 7 ms with 3.
        return _random(EPOCHS, self.seed, epoch).permutation(len(self.encoded))

    def _sample(self, batches: int) -> list[np.ndarray]:
        last = max(self._stats.epoch, SAMPLE) - 1
        starts = np.linspace(0, last, SAMPLE).astype(int).tolist()
        return [self._stream(step * self.batch, batches * self.batch) for step in starts]


class EvalBatches:
    """Evaluation batches by number: every example exactly once, one per row, sorted by length.

    The last batch is filled with empty rows, so that all shapes are (batch, one of the row lengths). What
    `random_transform` does depends only on the seed and the example: every evaluation sees the same. The arguments are
    those of Batches.
    """

    def __init__(
        self,
        encoded: Encoded,
        batching: Batching,
        batch: int,
        seed: int,
        random_transform: RandomTransform | None,
        max_predictions: Callable[[int], int | None],
        rows_multiple: int,
        max_len: int,
        pad_id: int,
        host: tuple[tuple[int, ...], int] = ((0,), 1),
        transformed_length: Callable[[int], int] | None = None,
    ):
        self.encoded, self.batch, self.seed = batching.prepare(encoded), batch, seed
        self._assembler = BatchAssembler(self.encoded, random_transform, pad_id, host)
        self._stats = _length_stats(
            self._assembler, max_predictions, transformed_length, batch, len(self), rows_multiple, max_len
        )
        lengths = self._stats.lengths
        if batch % rows_multiple:
            raise UserError(f"evaluation batch {batch} is not a multiple of {rows_multiple} (the devices)")
        self._order = np.argsort(lengths, kind="stable")
        longest = np.append(lengths[self._order[batch - 1 :: batch]], lengths.max())
        self._buckets = batching.lengths(longest, len(self), max_len)
        check_lengths(lengths, self._buckets[-1])

    def __len__(self) -> int:
        return math.ceil(len(self.encoded) / self.batch)

    def __iter__(self) -> Iterator[Arrays]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Arrays:
        if not 0 <= number < len(self):
            raise IndexError(f"evaluation batch {number} of {len(self)}")
        numbers = self._order[number * self.batch : (number + 1) * self.batch]
        lengths = self._stats.lengths[numbers]
        plan = one_per_row(np.arange(len(numbers)), lengths, self._buckets, self.batch, self._stats.predictions)
        return self._assembler.fill(plan, numbers, lambda place: _random(EVALUATIONS, self.seed, int(numbers[place])))


def train_iterator(batches: Batches, start_step: int = 0, threads: int = 2, ahead: int = 4) -> grain.DatasetIterator:
    """Batches from `start_step` on; `threads` threads make up to `ahead` of them in advance.

    The iterator's state (`get_state`, `set_state`) is the number of the next step. Call `close` to end the threads.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    iterator = iter(grain.MapDataset.source(batches).to_iter_dataset(options))
    set_next_index(iterator, start_step)
    return iterator


def _length_stats(
    assembler: BatchAssembler,
    max_predictions: Callable[[int], int | None],
    transformed_length: Callable[[int], int] | None,
    batch: int,
    steps: int,
    multiple: int,
    max_len: int,
) -> LengthStats:
    encoded, kind = assembler.encoded, prediction_key(assembler.blank)
    if multiple % assembler.host[1]:
        raise ValueError(f"rows_multiple {multiple} is not a multiple of the {assembler.host[1]} shards of a batch")
    if (kind is None) != (max_predictions(1) is None):
        raise ValueError(
            "a task's `max_predictions` is None exactly when its examples have no `at` and no `decoder_tokens`"
        )
    distinct, which = np.unique(encoded.lengths, return_inverse=True)
    lengths = encoded.lengths
    if transformed_length is not None:
        lengths = np.array([transformed_length(length) for length in distinct.tolist()])[which]
    if kind is None:
        return LengthStats(lengths, lengths, lambda length: length, batch, steps, multiple, max_len)
    # Predictions that `encode` has made are counted, and may be more than tokens.
    counted = kind in encoded.flat
    needs = encoded.counts if counted else np.array([max_predictions(length) for length in distinct.tolist()])[which]
    return LengthStats(lengths, needs, _most(lengths, needs), batch, steps, multiple, max_len)


def _most(lengths: np.ndarray, needs: np.ndarray) -> Callable[[int], int]:
    """A function of a row length: the most predictions that an example which fits into such a row needs."""
    order = np.argsort(lengths, kind="stable")
    most = np.maximum.accumulate(needs[order])
    ordered = lengths[order]
    return lambda length: int(most[np.searchsorted(ordered, length, "right") - 1])


def _random(stream: int, seed: int, number: int) -> np.random.Generator:
    """A generator that depends on its arguments only. Philox takes them as its key and counter, without hashing."""
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, stream]))


def _fill(sizes: Iterable[tuple[int, int]]) -> float:
    useful, total = np.sum(list(sizes), 0)
    return float(useful / total)
