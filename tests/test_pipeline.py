"""The order of a run: epochs are permutations, and a batch depends on seed and step only."""

import numpy as np
import pytest

from jaxft.data import Chunk, Pack, Pad
from jaxft.data.encoded import encode_all
from jaxft.data.pipeline import Batches, EvalBatches, train_iterator

COUNT = 23


def encode(rows):
    return [{"tokens": np.full(3 + row % 7, row, np.int32)} for row in rows]


def hide(example, rng):
    """Like masked language modelling: one or two random positions, so that draws can be told apart."""
    tokens = example["tokens"].copy()
    at = np.sort(rng.permutation(len(tokens))[: rng.integers(1, 3)]).astype(np.int32)
    targets = rng.integers(0, 10**6, len(at)).astype(np.int32)
    tokens[at] = -1
    return {"tokens": tokens, "at": at, "targets": targets, "weights": np.ones(len(at), np.float32)}


def arguments(rows, batch=4, seed=5, multiple=1, host=((0,), 1), count=COUNT):
    return encode_all(range(count), encode), rows, batch, seed, hide, lambda length: 2, multiple, 16, 0, host


def make(*args, **named):
    return Batches(*arguments(*args, **named))


def same(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)


def drawn(batch):
    """What was drawn, without regard to rows: {(source row, target, position in the example)}."""
    at = np.take_along_axis(batch["positions"], batch["at"], 1)
    used = batch["index"] >= 0
    return set(zip(batch["index"][used].tolist(), batch["targets"][used].tolist(), at[used].tolist(), strict=True))


@pytest.mark.parametrize("rows", [Pad(window=1), Pad(window=3), Pack(length=16)])  # no window crosses an epoch here
def test_every_epoch_is_a_permutation(rows):
    def orders(seed):
        made = make(rows, batch=COUNT, seed=seed)
        return [made.examples(step).tolist() for step in range(6)]

    for order in orders(5):
        assert sorted(order) == list(range(COUNT))
    assert len({tuple(order) for seed in (5, 6) for order in orders(seed)}) == 12


def test_stream_crosses_epochs():
    made = make(Pad(window=2))
    seen = np.concatenate([made.examples(step) for step in range(2 * COUNT)])
    assert np.bincount(seen).tolist() == [8] * COUNT
    straight = make(Pad(window=1))
    stream = np.concatenate([straight.examples(step) for step in range(COUNT)])
    for epoch in range(4):
        assert sorted(stream[epoch * COUNT : (epoch + 1) * COUNT]) == list(range(COUNT))


def test_batches_are_pure_and_windows_are_shuffled():
    one, two = make(Pad(window=4)), make(Pad(window=4))
    backwards = {step: two[step] for step in reversed(range(12))}
    assert all(same(one[step], backwards[step]) for step in range(12))
    longest = [one[step]["segments"].sum(1).max() for step in range(40)]
    assert any(longest[i : i + 4] != sorted(longest[i : i + 4]) for i in range(0, 40, 4))
    assert not same(one[0], make(Pad(window=4), seed=6)[0])
    with pytest.raises(IndexError):
        one[-1]


@pytest.mark.parametrize("stop", [2, 6, 9, 13])
def test_resume_is_exact(stop):
    made = make(Pad(window=4))
    straight = train_iterator(made)
    expected = [next(straight) for _ in range(18)]
    straight.close()
    assert all(same(batch, made[step]) for step, batch in enumerate(expected))
    first = train_iterator(make(Pad(window=4)))
    for _ in range(stop):
        next(first)
    state = first.get_state()
    first.close()
    restored, started = train_iterator(make(Pad(window=4))), train_iterator(make(Pad(window=4)), stop)
    restored.set_state(state)
    assert started.get_state() == state
    for step in range(stop, 18):
        assert same(next(restored), expected[step]) and same(next(started), expected[step])
    restored.close()
    started.close()


@pytest.mark.parametrize("rows", [Pad(window=2), Pack(length=16)])
@pytest.mark.parametrize("kind", [Batches, EvalBatches])
def test_hosts_make_their_rows_of_the_same_batch(rows, kind):
    whole = kind(*arguments(rows, batch=8, multiple=4))
    parts = [kind(*arguments(rows, batch=8, multiple=4, host=((i,), 4))) for i in range(4)]
    apart = [kind(*arguments(rows, batch=8, multiple=4, host=(own, 4))) for own in ((0, 2), (1, 3), (1, 3))]
    for step in range(3):
        joined = {key: np.concatenate([part[step][key] for part in parts]) for key in whole[step]}
        assert same(whole[step], joined)
        for made, own in zip(apart, ((0, 2), (1, 3), (1, 3)), strict=True):
            wanted = {key: np.concatenate([parts[i][step][key] for i in own]) for key in joined}
            assert same(made[step], wanted)
    with pytest.raises(ValueError, match="shards of a batch"):
        kind(*arguments(rows, batch=8, multiple=2, host=((0,), 4)))


def test_draw_depends_on_seed_and_place_only():
    padded, packed, multiple = make(Pad(window=1)), make(Pack(length=16)), make(Pack(length=16), multiple=4)
    for step in range(12):
        assert drawn(padded[step]) == drawn(packed[step]) == drawn(multiple[step])
    window = make(Pad(window=6))
    assert set().union(*(drawn(window[s]) for s in range(6))) == set().union(*(drawn(padded[s]) for s in range(6)))
    epochs = make(Pad(window=1), batch=COUNT)
    assert drawn(epochs[0]).isdisjoint(drawn(epochs[1]))
    assert drawn(padded[0]).isdisjoint(drawn(make(Pad(window=1), seed=6)[0]))


@pytest.mark.parametrize("rows", [Pad(), Pack(length=16)])
@pytest.mark.parametrize("count", [1, 3, 8, 9, 10])
def test_evaluation_sees_each_example_once(rows, count):
    made = EvalBatches(*arguments(rows, count=count))
    got = list(made)
    assert len(got) == len(made) == -(-count // 4)
    for batch in got:
        assert batch["tokens"].shape == (4, 8 if count < 6 else 16)
        assert np.array_equal(batch["index"] >= 0, batch["weights"] > 0)
    owners = np.concatenate([batch["index"].max(1) for batch in got])
    assert sorted(owners[owners >= 0]) == list(range(count))
    empty = got[-1]["index"].max(1) < 0
    assert not got[-1]["segments"][empty].any() and empty.sum() == -count % 4
    again = EvalBatches(*arguments(rows, count=count))
    one_by_one = EvalBatches(*arguments(rows, batch=1, count=count))
    assert all(same(*pair) for pair in zip(got, again, strict=True))
    assert set().union(*map(drawn, got)) == set().union(*map(drawn, one_by_one))


def test_evaluation_draws_are_its_own():
    given = arguments(Pad(window=1), batch=1, count=1)
    assert drawn(Batches(*given)[0]).isdisjoint(drawn(EvalBatches(*given)[0]))


def test_chunks_train_and_evaluate():
    train, evaluation = make(Chunk(length=8), batch=2), EvalBatches(*arguments(Chunk(length=8), batch=2))
    total = sum(3 + row % 7 for row in range(COUNT))
    assert len(train.encoded) == total // 8
    assert all(batch["tokens"].shape == (2, 8) for batch in [train[0], *evaluation])


def test_more_slots_than_announced_is_refused():
    data, rows, batch, seed, draw, _, *rest = arguments(Pad())
    made = Batches(data, rows, batch, seed, draw, lambda length: 1, *rest)
    with pytest.raises(ValueError, match="max_predictions"):
        [made[step] for step in range(10)]
    with pytest.raises(ValueError, match="`max_predictions` is None"):
        Batches(data, rows, batch, seed, draw, lambda length: None, *rest)
