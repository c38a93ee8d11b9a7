"""Swapped terms: texts, what changes in a classifier's answers, and the command."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import command
from sklearn.metrics import accuracy_score

import jaxft
from jaxft import bias
from jaxft.data import Data
from jaxft.fairness.counterfactual import compare, compare_rows
from jaxft.fairness.swaps import Swaps, read_swaps
from jaxft.problems import UserError

PAIRS = [("he", "she"), ("his", "her"), ("him", "her"), ("John", "Mary"), ("New York", "Paris"), ("New", "Old")]
PLAIN = [("cat", "dog"), ("good", "bad"), ("film", "story")]


@pytest.mark.parametrize(
    ("text", "swapped", "terms"),
    [
        ("He saw her; HE'S there.", "She saw his; SHE'S there.", ["he", "her", "he"]),
        ("the sheep, cashew and _he_", "the sheep, cashew and _he_", []),
        ("john JOHN John, mary!", "mary MARY Mary, john!", ["John", "John", "John", "Mary"]),
        ("New York is new.\nParis", "Paris is old.\nNew York", ["New York", "New", "Paris"]),
        ("", "", []),
        ("he\u0131 \u0130", "he\u0131 \u0130", []),
    ],
)
def test_terms_are_whole_words_and_keep_their_case(text, swapped, terms):
    assert Swaps(PAIRS)(text) == (swapped, terms)


def test_letters_that_only_regular_expressions_take_for_one_another():
    swaps = Swaps([("it", "that")])
    assert swaps("\u0131t \u0130t it") == ("\u0131t \u0130t that", ["it"])


def test_a_term_of_several_pairs_becomes_the_first():
    swaps = Swaps(PAIRS)
    assert swaps.ambiguous == {"her": ["his", "him"]} and swaps("for her")[0] == "for his"
    assert Swaps([("a", "b"), ("b", "a"), ("A", "b")]).ambiguous == {}


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from([w for pair in PLAIN for w in pair] + ["the", "catty", "Good", "BAD", "é", ",", "\n"])))
def test_twice_is_not_at_all(words):
    text, swaps = " ".join(words), Swaps(PLAIN)
    swapped, terms = swaps(text)
    assert swaps(swapped)[0] == text
    # By words, without a regular expression.
    table = dict(PLAIN) | {other: term for term, other in PLAIN}
    assert swapped.lower().split() == [table.get(word, word) for word in text.lower().split()]
    assert len(terms) == sum(word.lower() in table for word in words)


LABELS = ["neg", "neu", "pos"]
ROWS = [("he is good",), ("nothing here",), ("she and he", "John"), ("her film",), ("Mary",)]
TARGETS = np.array([2, 0, 1, 0, 2])


def scores(texts) -> np.ndarray:
    """Any function of the texts will do."""
    sums = [[sum(map(ord, " ".join(text))) % m + 1 for m in (7, 11, 13)] for text in texts]
    return np.array(sums, float) / np.sum(sums, 1, keepdims=True)


def test_numbers_are_those_of_the_rows_that_held_a_term():
    found = compare(ROWS, TARGETS, LABELS, Swaps(PAIRS), scores)
    held = [0, 2, 3, 4]
    after = [("she is good",), ("he and she", "Mary"), ("his film",), ("John",)]
    assert found.numbers == held and found.swapped == after
    one, other = scores([ROWS[i] for i in held]), scores(after)
    answers, theirs, targets = one.argmax(1), other.argmax(1), TARGETS[held]
    summary = found.summary()
    gaps = np.array([abs(one[i, answers[i]] - other[i, answers[i]]) for i in range(4)])
    expected = {
        "rows": 5,
        "swapped": 4,
        "accuracy": accuracy_score(targets, answers),
        "swapped_accuracy": accuracy_score(targets, theirs),
        "paired_accuracy": np.mean([a == b == t for a, b, t in zip(answers, theirs, targets, strict=True)]),
        "changed": 1 - accuracy_score(answers, theirs),
        "mean_gap": gaps.mean(),
        "max_gap": gaps.max(),
    }
    assert {name: summary[name] for name in expected} == pytest.approx(expected)
    assert {term: part["rows"] for term, part in summary["terms"].items()} == {
        "he": 2,
        "she": 1,
        "John": 1,
        "her": 1,
        "Mary": 1,
    }
    he = summary["terms"]["he"]
    assert he["mean_gap"] == pytest.approx(gaps[:2].mean()) and he["changed"] == np.mean(answers[:2] != theirs[:2])
    assert he["shift"] == pytest.approx(dict(zip(LABELS, (one - other)[:2].mean(0), strict=True)))
    assert he["accuracy"] == accuracy_score(targets[:2], answers[:2])


def test_without_true_classes_there_are_no_accuracies():
    summary = compare(ROWS, None, LABELS, Swaps(PAIRS), scores).summary()
    assert not [name for name in summary if "accuracy" in name] and "accuracy" not in summary["terms"]["he"]
    with pytest.raises(UserError, match="none of 1 rows contains a term"):
        compare(ROWS[1:2], None, LABELS, Swaps(PAIRS), scores)


def test_a_blind_scorer_changes_nothing():
    summary = compare(
        ROWS, TARGETS, LABELS, Swaps(PAIRS), lambda some: np.tile([0.2, 0.5, 0.3], (len(some), 1))
    ).summary()
    assert summary["changed"] == summary["mean_gap"] == summary["max_gap"] == 0
    assert summary["accuracy"] == summary["swapped_accuracy"] == summary["paired_accuracy"] == 0.25


def write(path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.fixture
def files(tmp_path):
    rows = "text,topic\na good cat,pos\nthe log,neg\na DOG and a bad film,neu\n"
    return write(tmp_path / "rows.csv", rows), write(tmp_path / "swaps.tsv", "term\tother\ncat\tdog\ngood\tbad\n")


def test_a_model_is_asked_about_both(tiny_classifier, files, tmp_path):
    model = jaxft.load(str(tiny_classifier))
    rows, swaps = Data(path=files[0]).open(), read_swaps(files[1])
    found = compare_rows(model, rows, ["text"], "topic", swaps, batch=2)
    assert found.originals == [("a good cat",), ("a DOG and a bad film",)]
    assert found.swapped == [("a bad dog",), ("a CAT and a good film",)]
    assert found.labels == LABELS and found.targets.tolist() == [2, 1] and found.scores.sum(1) == pytest.approx([1, 1])
    for texts, probabilities in ((found.originals, found.scores), (found.swapped, found.swapped_scores)):
        for answer, row in zip(model.predict([text for (text,) in texts]), probabilities, strict=True):
            assert answer["label"] == LABELS[row.argmax()] and answer["score"] == pytest.approx(row.max(), abs=1e-6)
    found.write(str(tmp_path / "out.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["row"], line["terms"], line["target"]) for line in lines] == [
        (1, ["good", "cat"], "pos"),
        (3, ["dog", "bad"], "neu"),
    ]
    assert lines[1]["swapped_texts"] == ["a CAT and a good film"] and lines[1]["label"] in LABELS
    assert lines[0]["score"] == found.scores[0].max()
    assert lines[0]["swapped_score"] == found.swapped_scores[0, found.scores[0].argmax()]


def test_mistakes(tiny_bert, tiny_classifier, files, tmp_path):
    def message(call, *arguments):
        with pytest.raises(UserError) as caught:
            call(*arguments)
        return str(caught.value)

    said = message(read_swaps, write(tmp_path / "a.csv", "term,other\nhe,she\nit,IT\n,x\n"))
    assert "a.csv, row 3: '' in column 'term', expected a word" in said
    said = message(read_swaps, write(tmp_path / "b.csv", "term,other\nhe,she\nit,IT\n"))
    assert "b.csv, row 2: 'it' would be swapped for itself" in said
    assert "they are 'he', 'she'" in message(read_swaps, write(tmp_path / "c.csv", "he,she\nhis,her\n"))
    rows, swaps = Data(path=files[0]).open(), read_swaps(files[1])
    said = message(compare_rows, jaxft.load(str(tiny_bert)), rows, ["text"], None, swaps, 2)
    assert "is not a single-label classifier" in said
    model = jaxft.load(str(tiny_classifier))
    lists = Data(path=write(tmp_path / "d.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text": null}\n')).open()
    assert "none of 3 rows" in message(compare_rows, model, lists, ["text"], None, swaps, 2)
    lists = Data(path=write(tmp_path / "e.jsonl", '{"text": ["a"]}\n')).open()
    assert "e.jsonl, row 1: column 'text' holds ['a']" in message(compare_rows, model, lists, ["text"], None, swaps, 2)
    labelled = Data(path=write(tmp_path / "x.csv", "text,label\nhe,pos\nhe,posi\nhe,\n")).open()
    said = message(compare_rows, model, labelled, ["text"], "label", swaps, 2)
    assert "x.csv, row 2: class 'posi' is not among the classes: neg, neu, pos. Did you mean 'pos'?" in said
    assert "row 3" not in said


def test_rows_without_a_label_are_left_out(tiny_classifier, tmp_path, files, one_device, caplog):
    model = jaxft.load(str(tiny_classifier))
    cats = Data(path=write(tmp_path / "y.csv", "text,label\na cat,\na cat,pos \na cat,-1\n")).open()
    with caplog.at_level("INFO", "jaxft"):
        found = compare_rows(model, cats, ["text"], "label", Swaps([("cat", "dog")]), 2)
    assert found.numbers == [1] and found.targets.tolist() == [2] and "y.csv: 2 rows left out: no label" in caplog.text


def flags(files, model, **more):
    given = {"text": "text", "pair": None, "label": None, "output": None, "batch": 32} | more
    return SimpleNamespace(input=files[0], swaps=files[1], model=str(model), **given)


def test_command(tiny_classifier, files, tmp_path, capsys, caplog):
    (tmp_path / "swaps.tsv").write_text("term\tother\ncat\tdog\ngood\tbad\nlog\tdog\n")
    with caplog.at_level("INFO", "jaxft"):
        bias.main(flags(files, tiny_classifier, label="topic", output=str(tmp_path / "out.jsonl")))
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["swapped"]) == (3, 3) and len(summary["terms"]) == 5
    assert "dog is in several pairs (cat, log): the first is used" in caplog.text
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    with pytest.raises(UserError) as caught:
        bias.main(flags(files, tiny_classifier, text="txt", label="topik"))
    assert len(caught.value.problems) == 2 and "Did you mean 'topic'?" in caught.value.problems[1]


@pytest.mark.slow
def test_command_line(tiny_classifier, files, tmp_path):
    words = [f"--model={tiny_classifier}", f"--input={files[0]}", f"--swaps={files[1]}", "--label=topic"]
    done = command("bias", *words, "--output=out.jsonl", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["swapped"] == 2 and (tmp_path / "out.jsonl").exists()
    done = command("bias", *words[:2], "--swaps=swops.tsv", cwd=tmp_path)
    assert done.returncode == 2 and "'swaps.tsv'" in done.stderr and "Traceback" not in done.stderr


def test_accents_are_parts_of_words():
    """ "he" is no word of its own in "he\u0301", nor is a Hindi word in the same word with a vowel sign."""
    swaps = Swaps([("he", "she"), ("\u0930", "\u0932")])
    assert swaps("he\u0301 he, \u0930\u0941 \u0930") == ("he\u0301 she, \u0930\u0941 \u0932", ["he", "\u0930"])
