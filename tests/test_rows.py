"""Encoding and row builders: nothing is lost, nothing overlaps, and shapes are few."""

import itertools

import numpy as np
import pytest

from jaxft.config.ranges import problems_of
from jaxft.data import Chunk, Pack, Pad
from jaxft.data.batching import best_fit, choose_buckets
from jaxft.data.data_report import fault_problems
from jaxft.data.encoded import encode_all
from jaxft.data.pipeline import Batches
from jaxft.problems import UserError


def encode(rows):
    """Row {"n": tokens, "k": slots} to an example whose tokens and targets tell the row; k None: no `at`."""
    examples = []
    for row in rows:
        tokens = np.arange(row["n"], dtype=np.int32) + 1000 * (row["id"] + 1)
        if row["k"] is None:
            examples.append({"tokens": tokens, "targets": tokens, "weights": np.ones(row["n"], np.float32)})
            continue
        at = np.linspace(0, row["n"] - 1, row["k"]).astype(np.int32)
        ones = np.ones(row["k"], np.float32)
        examples.append({"tokens": tokens, "types": tokens % 2, "at": at, "targets": tokens[at], "weights": ones})
    return examples


def make(lengths, k=1):
    return encode_all([{"id": i, "n": int(n), "k": k} for i, n in enumerate(lengths)], encode)


def batches(encoded, rows, batch, max_predictions=lambda length: 1, multiple=1, max_len=128, **more):
    return Batches(encoded, rows, batch, 0, None, max_predictions, multiple, max_len, 9, **more)


def random_lengths(count, low=5, high=128):
    return np.random.default_rng(1).integers(low, high + 1, count)


def test_encode_all_counts_and_keeps_row_numbers():
    rows = [{"id": i, "n": n, "k": 2} for i, n in enumerate([3, 1, 5, 1, 4])]

    def some(piece):
        made = encode(piece)
        made[-1]["truncated"] = 2
        return ["too short" if row["n"] < 2 else example for row, example in zip(piece, made, strict=True)]

    for chunk in (1, 2, 1000):
        encoded = encode_all(rows, some, chunk)
        assert encoded.source.tolist() == [0, 2, 4] and encoded.lengths.tolist() == [3, 5, 4]
        assert encoded.counts.tolist() == [2, 2, 2] and len(encoded) == 3
        assert encoded[1]["tokens"].tolist() == [3000, 3001, 3002, 3003, 3004] and encoded[2]["at"].tolist() == [0, 3]
        assert encoded.report.dropped == {"too short": 2} and encoded.report.tokens == 12
        assert (encoded.report.rows, encoded.report.kept) == (5, 3)
    assert encoded.report.truncated == 1


def test_a_row_may_give_several_examples_and_have_faults():
    rows = [{"id": i, "n": n, "k": None} for i, n in enumerate([3, 0, 5, 2, 7])]

    def windows(piece):
        made = [encode([row | {"n": n} for n in range(1, row["n"] + 1)]) if row["n"] else "no text" for row in piece]
        for row, examples in zip(piece, made, strict=True):
            if row["id"] > 1:
                examples[0]["fault"] = ("a lost answer", f"'{row['id']}'")
        return made

    for chunk in (1, 2, 1000):
        encoded = encode_all(rows, windows, chunk)
        assert encoded.source.tolist() == [0] * 3 + [2] * 5 + [3] * 2 + [4] * 7
        assert encoded.lengths.tolist() == [1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 1, 2, 3, 4, 5, 6, 7]
        report = encoded.report
        assert (report.rows, report.kept, report.windows) == (5, 4, 17)
        assert report.faults == {"a lost answer": 3} and "fault" not in encoded.flat
        assert report.fault_examples == {"a lost answer": ["row 3: '2'", "row 4: '3'", "row 5: '4'"]}
    assert fault_problems(report, 0.75) == [] and fault_problems(make([3]).report, 0.0) == []
    assert fault_problems(report, 0.74) == [
        "3 of 4 rows have a lost answer (row 3: '2'; row 4: '3'; row 5: '4'): repair them, or let more of them pass "
        "with config.task.fault_limit"
    ]
    # A slot says which example it is of; the example says which row.
    made = batches(encoded, Pack(length=16), 17, max_predictions=lambda length: None)[0]
    for number in range(17):
        own = made["index"] == number
        assert (made["tokens"][own] // 1000 == encoded.source[number] + 1).all() and own.sum() == encoded.lengths[
            number
        ]


def test_all_rows_dropped_says_why():
    with pytest.raises(UserError, match=r"no example is left of 3 rows.*no label \(2\), too short \(1\)"):
        encode_all([1, 2, 3], lambda rows: ["too short" if row == 2 else "no label" for row in rows])


def test_bad_rows_are_named():
    def refuse(rows):
        if any(row in (5, 7) for row in rows):
            raise UserError("unknown label")
        return [{"tokens": np.ones(1, np.int32)} for _ in rows]

    with pytest.raises(UserError) as caught:
        encode_all(list(range(10)), refuse, chunk=4)
    assert caught.value.problems == ["the data, 2 rows, first 6: unknown label"]


def test_lengths_are_those_that_need_the_least_padding():
    """Against every choice of multiples of 8 (or the longest that may be) that holds all batches."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        longest = rng.integers(1, 90, rng.integers(1, 30))
        most, max_len = int(rng.integers(1, 5)), int(max(longest.max(), rng.integers(80, 100)))
        needed = np.minimum(-(-longest // 8) * 8, max_len)

        def padded(lengths, needed=needed):
            return np.array(lengths)[np.searchsorted(lengths, needed)].sum()

        known = sorted(set(needed.tolist()))
        choices = [
            lengths
            for count in range(1, most + 1)
            for lengths in itertools.combinations(known, count)
            if lengths[-1] == known[-1]
        ]
        found = choose_buckets(longest, most, max_len)
        assert len(found) <= most and padded(found) == min(map(padded, choices))


def test_a_further_length_saves_sixteen_batches():
    """Of 10,000 batches; counted by hand for two lengths, of which the first saves half of what half of them need."""
    longest = np.arange(1, 129)
    assert len(Pad().lengths(longest, 10_000, 128)) == 10 and Pad().lengths(longest, 10_000, 128)[-1] == 128
    assert Pad().lengths(longest, 64, 128) == (64, 128) and Pad().lengths(longest, 63, 128) == (128,)
    assert Pad(shapes=2).lengths(longest, 10_000, 128) == (64, 128)
    assert Pad().lengths(np.array([3, 97]), 100, 100) == (8, 100)
    assert Pad(buckets=(16, 48)).lengths(longest, 1, 128) == (16, 48)
    for wrong in (Pad(buckets=(48, 16)), Pad(window=0), Pad(shapes=0)):
        assert len(problems_of(wrong)) == 1
    assert not problems_of(Pad())


def test_padding_has_few_shapes_and_little_waste():
    data = make(random_lengths(4000))
    chosen = batches(data, Pad(), 16)
    lengths = sorted(length for _, length in chosen.shapes(500))
    assert len(lengths) <= 10 and all(rows == 16 for rows, _ in chosen.shapes(500))
    assert chosen.fill(250) > 0.9
    eighths = batches(data, Pad(buckets=tuple(range(16, 129, 16))), 16)
    assert len(eighths.shapes(100)) <= 8 and 0.85 < eighths.fill(250) < chosen.fill(250)
    assert batches(data, Pad(window=1), 16).fill(250) < 0.6
    for step in range(20):
        made = chosen[step]
        longest = (made["segments"] > 0).sum(1).max()
        assert made["tokens"].shape[1] == min(length for length in lengths if length >= longest)


def test_windows_are_no_longer_than_an_epoch():
    """And of about equal size: 13 batches an epoch are two windows of 7, no window of 10."""
    for count, window, wanted in ((13, 10, 7), (5, 50, 5), (100, 50, 50), (101, 50, 34)):
        made = batches(make(random_lengths(count * 4)), Pad(window=window), 4)
        assert made._planner.window == wanted


def test_padded_batch():
    made = batches(make([3, 5]), Pad(buckets=(8,), window=1), 2)[0]
    row = made["index"][:, 0].tolist().index(0)
    assert made["tokens"][row].tolist() == [1000, 1001, 1002, 9, 9, 9, 9, 9]
    assert made["positions"][row].tolist() == [0, 1, 2, 0, 0, 0, 0, 0]
    assert made["segments"][row].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert made["types"][row].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert made["at"].shape == made["targets"].shape == made["weights"].shape == made["index"].shape == (2, 1)
    kinds = {key: values.dtype for key, values in made.items()}
    assert kinds.pop("weights") == np.float32 and set(kinds.values()) == {np.dtype(np.int32)}


def test_targets_with_classes_and_no_at():
    def one_hot(rows):
        return [
            {
                "tokens": np.ones(3, np.int32),
                "at": np.zeros(1, np.int32),
                "targets": np.eye(4)[[row]],
                "weights": np.ones(1),
            }
            for row in rows
        ]

    made = batches(encode_all([0, 1, 2, 3], one_hot), Pack(length=6), 4)[0]
    assert made["targets"].dtype == made["weights"].dtype == np.float32
    assert made["targets"].shape == (2, 2, 4)
    assert np.array_equal(made["targets"].argmax(-1), made["index"])
    dense = batches(make([3, 5], None), Pad(buckets=(8,), window=1), 2, lambda length: None)[0]
    assert dense["targets"].shape == (2, 8) and dense["weights"].sum() == 8 and "at" not in dense
    assert np.array_equal(dense["index"] >= 0, dense["segments"] > 0)


@pytest.mark.parametrize("rows", [Pad(buckets=(8, 16), window=1), Pack(length=16)])
def test_slots_that_are_known_are_counted(rows):
    """Where `encode` makes `at`: more than tokens, or fewer than a row could hold."""

    def some(pieces):
        return [
            {
                "tokens": np.ones(row["n"], np.int32),
                "at": np.zeros(row["k"], np.int32),
                "targets": np.arange(row["k"]),
                "weights": np.ones(row["k"]),
            }
            for row in pieces
        ]

    data = encode_all([{"n": 16, "k": 20}, {"n": 6, "k": 2}, {"n": 7, "k": 1}], some)
    made = batches(data, rows, 3, lambda length: length)
    for step in range(3):
        assert (made[step]["index"] >= 0).sum() == made[step]["weights"].sum() == 23
        assert made[step]["targets"].shape[1] == 20
    small = batches(data, Pad(buckets=(8, 16), window=1), 1, lambda length: length)
    assert {(len(one["tokens"][0]), len(one["at"][0])) for one in map(small.__getitem__, range(6))} == {
        (16, 20),
        (8, 2),
    }


@pytest.mark.parametrize("k", [None, 1, 3])
def test_packing_loses_and_mixes_nothing(k):
    lengths = random_lengths(300, 3, 40)
    packed = batches(make(lengths, k), Pack(length=64), 16, lambda length: k and 3, multiple=2)
    for step in range(40):
        made = packed[step]
        seen = []
        for row, (tokens, segments, positions) in enumerate(
            zip(made["tokens"], made["segments"], made["positions"], strict=True)
        ):
            assert np.all(np.diff(np.trim_zeros(segments, "b")) >= 0)
            for segment in range(1, segments.max() + 1):
                where = segments == segment
                number = int(tokens[where][0]) // 1000 - 1
                seen.append(number)
                assert tokens[where].tolist() == [1000 * (number + 1) + i for i in range(lengths[number])]
                assert positions[where].tolist() == list(range(lengths[number]))
                own = made["index"][row] == number
                assert np.array_equal(made["targets"][row][own], tokens[made["at"][row][own] if k else own])
                assert own.sum() == (k or lengths[number])
            assert np.all(tokens[segments == 0] == 9) and np.all(positions[segments == 0] == 0)
        assert sorted(seen) == sorted(packed.examples(step))
        assert np.array_equal(made["weights"] > 0, made["index"] >= 0)
        assert len(made["tokens"]) % 2 == 0


def test_packing_has_few_shapes_and_fills():
    packed = batches(make(random_lengths(5000)), Pack(length=512), 64, multiple=2)
    shapes = packed.shapes(200)
    assert len(shapes) <= 5 and all(length == 512 and rows % 2 == 0 for rows, length in shapes)
    assert packed.fill(200) > 0.85
    small = batches(make(random_lengths(1000)), Pack(length=128), 64, multiple=3).shapes(100)
    assert len(small) <= 5 and all(rows % 3 == 0 for rows, _ in small)


def test_best_fit_keeps_both_limits():
    row, column, segment, slot = best_fit(np.array([5, 7, 5]), np.array([1, 1, 1]), 20, 3)
    assert (row.tolist(), column.tolist(), segment.tolist()) == ([0, 0, 0], [7, 0, 12], [2, 1, 3])
    row, _, _, slot = best_fit(np.array([5, 7, 5]), np.array([1, 2, 1]), 20, 3)
    assert row.tolist() == [0, 0, 1] and slot.tolist() == [2, 0, 0]
    # Two goes to the row with the least room, not to the first one that has room.
    row, *_ = best_fit(np.array([12, 9, 9, 2]), np.ones(4, int), 20, 9)
    assert row.tolist() == [0, 1, 1, 1]


def test_too_long_examples_are_refused():
    for rows in (Pad(buckets=(16,)), Pack(length=16)):
        with pytest.raises(UserError, match="2 examples have more than 16 tokens, the longest 40"):
            batches(make([3, 17, 40]), rows, 2)
    with pytest.raises(UserError, match="batch 3 is not a multiple of 2"):
        batches(make([3, 4, 5]), Pad(), 3, multiple=2)


def test_chunks_account_for_every_token():
    data = make([7, 7, 7, 7, 7, 7, 8], None)
    chunks = Chunk(length=16).prepare(data)
    assert (len(chunks), chunks.report.chunks, chunks.report.left) == (3, 3, 2)
    tokens = np.concatenate([data[i]["tokens"] for i in range(7)])
    assert np.array_equal(np.concatenate([chunks[i]["tokens"] for i in range(3)]), tokens[:48])
    assert data.report.chunks is None
    made = batches(data, Chunk(length=16), 2, lambda length: None)[0]
    assert made["tokens"].shape == (2, 16) and made["segments"].min() == 1
    assert made["positions"].tolist() == [list(range(16))] * 2
    with pytest.raises(UserError, match="50 tokens.*64"):
        Chunk(length=64).prepare(data)
    with pytest.raises(UserError, match="not per token"):
        Chunk(length=4).prepare(make([7, 7]))
