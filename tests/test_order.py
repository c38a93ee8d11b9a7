"""An epoch is each row once, however batches are made; a run ends where its epochs do."""

import functools
import math

import numpy as np
import pytest

from jaxft.data import Chunk, Pack, Pad
from jaxft.data.encoded import encode_all
from jaxft.data.order import Order, run_ends, run_examples
from jaxft.data.pipeline import Batches, train_iterator

ROWS = 1000
LENGTH = 6  # tokens of a chunk


def encode(rows):
    return [
        {
            "tokens": np.full(3 + row % 7, row, np.int32),
            "at": np.zeros(1, np.int32),
            "targets": np.array([row], np.int32),
            "weights": np.ones(1, np.float32),
        }
        for row in rows
    ]


def encode_running(rows):
    """Of two chunks' length each row, so that a chunk tells its number."""
    tokens = [np.repeat([2 * row, 2 * row + 1], LENGTH).astype(np.int32) for row in rows]
    return [{"tokens": some, "targets": some, "weights": np.ones(len(some), np.float32)} for some in tokens]


@functools.cache
def examples_of(running: bool):
    return encode_all(range(ROWS // 2), encode_running) if running else encode_all(range(ROWS), encode)


def make(rows, batch, multiple, host, ends):
    running = isinstance(rows, Chunk)
    encoded = examples_of(running)
    slots = (lambda length: None) if running else (lambda length: 1)
    return Batches(encoded, rows, batch, 7, None, slots, multiple, 16, 0, host, ends=lambda examples: ends)


def rows_of(batch, rows) -> np.ndarray:
    """The examples that stand in a batch's rows and count."""
    index, weights = batch["index"], batch["weights"]
    if isinstance(rows, Chunk):  # which has one for each token
        index, weights = index[:, 0], weights[:, 0]
    return index[weights > 0]


def combinations():
    rng = np.random.default_rng(11)
    for number in range(30):
        hosts = int(rng.choice([1, 2, 4]))
        rows = [
            Pad(window=int(rng.choice([1, 2, 7, 50]))),
            Pack(length=int(rng.integers(16, 60))),
            Pad(buckets=(4, 8, 16), window=3),
            Chunk(length=LENGTH),
        ][number % 4]
        batch = hosts * int(rng.choice([1, 3, 8, 25, 60, 300 if number % 4 != 1 else 90]))
        epochs = float(rng.choice([1, 2, 3, 0.3, 1.7, 2.5]))
        yield rows, batch, hosts, epochs, rng.integers(0, 2**31)


@pytest.mark.parametrize("rows, batch, hosts, epochs, seed", list(combinations()))
def test_every_epoch_has_each_row_once(rows, batch, hosts, epochs, seed):
    """Counted after every step, in the arrays themselves, through two restarts: no row comes again before all came."""
    examples = run_examples(ROWS, batch, None, epochs)
    steps = math.ceil(examples / batch)
    cuts = np.unique([0, *np.random.default_rng(seed).integers(0, steps + 1, 2), steps]).tolist()
    counts = np.zeros(ROWS, int)
    for begin, end in zip(cuts, cuts[1:], strict=False):
        share = [make(rows, batch, hosts, ((host,), hosts), (examples,)) for host in range(hosts)]
        assert len(share[0]) == steps
        iterators = [train_iterator(one, begin) for one in share]
        for step in range(begin, end):
            for iterator in iterators:
                np.add.at(counts, rows_of(next(iterator), rows), 1)
            assert counts.sum() == min((step + 1) * batch, examples)
            assert counts.min() >= counts.sum() // ROWS and counts.max() <= -(-counts.sum() // ROWS)
        for iterator in iterators:
            iterator.close()
    assert counts.sum() == round(epochs * ROWS)
    first, whole = make(Pad(window=1), 1, 1, ((0,), 1), (examples,)), math.floor(epochs)
    order = [int(first.examples(place)[0]) for place in range(whole * ROWS, examples)]
    assert sorted(np.flatnonzero(counts > whole)) == sorted(order)


def test_a_short_step_has_the_shapes_of_the_others():
    for rows, batch, shape in ((Pad(buckets=(16,)), 32, (32, 16)), (Pack(length=64), 32, None)):
        made = make(rows, batch, 4, ((0,), 1), (1000,))
        shapes = [made[step]["tokens"].shape for step in range(32)]
        assert len(made) == 32 and len(made.examples(31)) == 8
        assert shapes[31] in set(shapes[:31]) and shape in (None, shapes[31])
        last = made[31]
        assert last["weights"].sum() == (last["index"] >= 0).sum() == 8
        empty = (last["weights"] == 0).all(1)
        assert empty.any() and not last["segments"][empty].any()
        with pytest.raises(IndexError):
            made[32]


def test_a_run_that_was_extended_keeps_its_steps():
    """What was seen before the extension stays as it was, and every epoch is still each row once."""
    for former, more in ((1000, 3000), (640, 2000), (1300, 1400)):
        once, longer = (make(Pad(window=7), 32, 1, ((0,), 1), ends) for ends in ((former,), (former, more)))
        steps = math.ceil(former / 32)
        assert len(once) == steps and len(longer) == steps + math.ceil((more - former) / 32)
        for step in range(steps):
            assert once.examples(step).tolist() == longer.examples(step).tolist()
        counts = np.zeros(ROWS, int)
        for step in range(len(longer)):
            counts[longer.examples(step)] += 1
            assert counts.sum() == longer.order.seen(step + 1)
            assert counts.min() >= counts.sum() // ROWS and counts.max() <= -(-counts.sum() // ROWS)
        assert counts.sum() == more


def test_windows():
    """Each step is in one window, which has at most so many steps, of nearly equal number, and of one epoch."""
    for examples, batch, ends, most in ((100, 8, (250,), 4), (7, 8, (30,), 4), (96, 8, (192, 200, 500), 5)):
        order, step, sizes = Order(examples, batch, ends, most), 0, []
        while step < order.steps:
            window = order.window(step)
            assert window.first == step and window.start == order.seen(step)
            size = math.ceil((window.stop - window.start) / batch)
            assert size <= most and all(order.window(step + i) == window for i in range(size))
            assert size == 1 or window.start // examples == (window.stop - 1) // examples
            sizes.append(size)
            step += size
        assert step == order.steps and order.seen(step) == ends[-1]
        if examples == 96:
            assert sizes[:6] == [4, 4, 4, 4, 4, 4]  # 12 steps an epoch: three windows, none of 5


def test_how_many_examples_a_run_has():
    assert run_examples(1000, 32, None, 1.0) == 1000 and run_examples(1000, 32, 40, None) == 1280
    assert run_examples(100, 32, None, 0.07) == 7 and run_examples(1000, 32, None, 0.0301) == 31
    assert run_examples(3, 32, None, 2.5) == 8
    for former in ((1000,), (1000, 2000)):
        assert run_ends(former, 1000, 32, None, 2.0) == (1000, 2000)
    assert run_ends((1000,), 1000, 32, 40, None) == run_ends((1000, 1256), 1000, 32, 40, None) == (1000, 1256)
    assert Order(1000, 32, (1000, 1256), 5).steps == 40 and run_ends((1000,), 1000, 32, 20, None) == (616,)
