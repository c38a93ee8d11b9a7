"""Entities: seqeval's numbers over whole sets, schemes, repairs, and the best sequence that a scheme allows."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import metrics as seqeval
from seqeval import scheme as schemes

from jaxft.text.entities import (
    PREFIXES,
    Tagset,
    completed,
    entity_metrics,
    entity_spans,
    repaired,
    scheme_of,
    strict_spans,
    viterbi,
)

ULP = 1e-12
STRICT = {"BIO": schemes.IOB2, "IOBES": schemes.IOBES, "BILOU": schemes.BILOU}


def tagset(scheme, types=("LOC", "PER")):
    return Tagset(("O", *(f"{prefix}-{kind}" for kind in types for prefix in PREFIXES[scheme])), scheme)


def flat(sequences, tags):
    """Numbers of all tags, and where sequences begin."""
    first = [i == 0 for sequence in sequences for i in range(len(sequence))]
    return np.array([tags.index(tag) for tag in itertools.chain(*sequences)], int), np.array(first, bool)


def named(sequences, tags):
    return [[tags[number] for number in sequence] for sequence in sequences]


def theirs(truth, found, scheme) -> dict[str, float]:
    """seqeval does not know BILOU's letters unless told, so that its lenient mode is given IOBES's."""
    letters = str.maketrans("LU", "ES") if scheme == "BILOU" else {}
    plain = [[[tag[0].translate(letters) + tag[1:] for tag in one] for one in side] for side in (truth, found)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divisors that are 0
        names = ("precision", "recall", "f1")
        functions = (seqeval.precision_score, seqeval.recall_score, seqeval.f1_score)
        given = {name: score(*plain) for name, score in zip(names, functions, strict=True)}
        more = {"mode": "strict", "scheme": STRICT[scheme]} if scheme in STRICT else None
        if more:
            given |= {
                f"{name}_strict": score(truth, found, **more) for name, score in zip(names, functions, strict=True)
            }
        given["accuracy"] = seqeval.accuracy_score(truth, found)
        report = seqeval.classification_report(*plain, output_dict=True) if any(map(len, plain[0])) else {}
    given["f1_macro"] = report["macro avg"]["f1-score"]
    return given | {f"f1_{name}": report[name]["f1-score"] for name in report if not name.endswith("avg")}


pairs = st.lists(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12), min_size=1, max_size=6
)


@pytest.mark.parametrize("scheme", PREFIXES)
@settings(max_examples=150, deadline=None)
@given(data=pairs, types=st.sampled_from([("LOC", "PER"), ("A",), ("Ort", "名-前"), ("a-b", "a b")]))
def test_as_seqeval(scheme, data, types):
    known = tagset(scheme, types)
    sides = [[[pair[side] % len(known.tags) for pair in sequence] for sequence in data] for side in (0, 1)]
    truth, found = (named(side, known.tags) for side in sides)
    (gold, first), (answer, _) = flat(truth, known.tags), flat(found, known.tags)
    ours = entity_metrics(gold, answer, first, known)
    if all(tag == "O" for tag in itertools.chain(*truth, *found)):  # which seqeval's report cannot take
        assert ours.pop("accuracy") == 1.0 and not any(ours.values())
        return
    expected = theirs(truth, found, scheme)
    assert {name: ours[name] for name in expected} == pytest.approx(expected, abs=ULP)
    assert all(ours[f"f1_{name}"] == 0 for name in known.types if f"f1_{name}" not in expected)


def test_known_values():
    """A missed entity of two, and pieces of words that would count as entities of their own."""
    known = tagset("BIO")
    truth, first = flat([["O", "B-PER", "I-PER", "O", "B-LOC"]], known.tags)
    found, _ = flat([["O", "B-PER", "I-PER", "O", "O"]], known.tags)
    ours = entity_metrics(truth, found, first, known)
    assert (ours["precision"], ours["recall"]) == (1.0, 0.5) and ours["f1"] == pytest.approx(2 / 3)
    # What was not seen at all is read as O.
    assert entity_metrics(truth, np.where(found == 0, -1, found), first, known) == ours


def test_an_entity_ends_with_its_sequence():
    known = tagset("BIO")
    tags, first = flat([["B-PER", "I-PER"], ["I-PER", "O"]], known.tags)
    start, stop, _ = entity_spans(tags, first, known)
    assert (start.tolist(), stop.tolist()) == ([0, 2], [2, 3])
    assert strict_spans(start, stop, np.zeros(2, int), tags, known)[0].tolist() == [0]
    assert [len(part) for part in entity_spans(tags[:0], first[:0], known)] == [0, 0, 0]


@pytest.mark.parametrize(
    "tags, scheme",
    [
        (["O", "B-PER", "I-PER"], "BIO"),
        (["B-NP", "B-VP"], "BIO"),
        (["O", "I-PER"], "IO"),
        (["O", "S-PER", "B-PER", "E-PER"], "IOBES"),
        (["O", "U-PER", "B-PER", "L-PER"], "BILOU"),
        (["O"], "IO"),
        (["O", "B-PER", "E-PER", "L-PER"], None),
        (["NN", "VB", "O"], None),
        (["O", "I-"], None),
        (["O", "X-PER", "I-PER"], None),
        (["-LRB-", "NN"], None),
    ],
)
def test_schemes(tags, scheme):
    assert scheme_of(tags) == scheme


def test_completed():
    assert completed(["B-PER", "O"], "BIO") == ["B-PER", "O", "I-PER"]
    assert completed(["O", "S-X", "B-Y"], "IOBES")[3:] == ["B-X", "I-X", "E-X", "I-Y", "E-Y", "S-Y"]
    assert completed(["NN", "VB"], None) == ["NN", "VB"] and completed(["O"], "IO") == ["O"]


def test_repaired():
    """IOB1, in which B stands between entities that touch, becomes BIO; by seqeval's reading the entities stay."""
    known = tagset("BIO")
    tags, first = flat([["I-PER", "I-PER", "B-PER", "O"], ["I-LOC", "I-PER", "B-LOC", "I-LOC"]], known.tags)
    fixed, changed = repaired(tags, first, known)
    wanted = [["B-PER", "I-PER", "B-PER", "O"], ["B-LOC", "B-PER", "B-LOC", "I-LOC"]]
    assert named([fixed], known.tags) == [list(itertools.chain(*wanted))] and changed == 3
    assert repaired(fixed, first, known)[1] == 0
    other = tagset("IOBES")
    tags = np.array([other.tags.index("I-PER")])
    assert repaired(tags, np.array([True]), other) == (tags, 0)


@pytest.mark.parametrize("scheme", [*PREFIXES, None])
def test_viterbi_is_the_best_of_all_allowed_sequences(scheme):
    known = tagset(scheme, ("X",) if scheme != "BIO" else ("X", "Y")) if scheme else Tagset(("N", "V", "O"), None)
    rng, count = np.random.default_rng(0), len(known.tags)
    for _ in range(20):
        lengths = rng.integers(1, 5, 3)
        first = np.concatenate([np.arange(length) == 0 for length in lengths])
        scores = rng.standard_normal((len(first), count))
        found, start = viterbi(scores, first, known), 0
        for length in lengths:
            piece = scores[start : start + length]
            allowed = [p for p in itertools.product(range(count), repeat=int(length)) if is_whole(p, known)]
            best = max(allowed, key=lambda path: sum(piece[range(length), path]))
            assert found[start : start + length].tolist() == list(best)
            start += length
    if scheme in (None, "IO"):
        assert np.array_equal(found, scores.argmax(1))


def is_whole(path, known) -> bool:
    """By what seqeval finds: the strict entities are those of the lenient reading, and cover all that is not O."""
    if known.scheme in (None, "IO"):
        return True
    tags = [known.tags[number] for number in path]
    entities = schemes.Entities([tags], STRICT[known.scheme]).entities[0]
    return sum(entity.end - entity.start for entity in entities) == sum(tag != "O" for tag in tags)
