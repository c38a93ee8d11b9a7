"""Augmented copies: what they may change, that they are the same whenever read, and lists of synonyms."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.config import Config
from jaxft.data import Augmented, Data
from jaxft.data.augment import augment
from jaxft.data.word_list import cased, read_synonyms
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.training.setup import build

ROWS = [
    {"text": "The cat sat on the mat,  and the dog sat.", "note": "keep this as it is", "label": "a"},
    {"text": None, "note": "nothing", "label": "b"},
    {"text": "  one\n", "note": "", "label": "a"},
    {"text": " \t", "note": "", "label": "b"},
    {"text": "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9", "note": "", "label": "a"},
]
TABLE = {"cat": ("cat", ["kitten", "tom cat"]), "usa": ("USA", ["America"])}
words = st.lists(st.text("abcß.é", min_size=1, max_size=4), min_size=1, max_size=12)
quick = settings(max_examples=80, deadline=None, derandomize=True, database=None)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Data(path=str(tmp_path / "rows.jsonl"))


def changed(text, seed=0, drop=0.0, swap=0.0, replace=0.0, table=TABLE):
    return augment(text, np.random.default_rng(seed), drop, swap, replace, table)


def test_originals_come_first_and_are_untouched(data):
    rows = Augmented(data=data, copies=3, drop=0.5).open()
    assert len(rows) == 4 * len(ROWS) and rows[: len(ROWS)] == ROWS and rows.columns == ["text", "note", "label"]
    for number, row in enumerate(rows):
        of = ROWS[number % len(ROWS)]
        assert (row["note"], row["label"]) == (of["note"], of["label"])
    assert [rows[i]["text"] for i in (6, 11, 8, 13)] == [None, None, " \t", " \t"]
    assert len({rows[i]["text"] for i in (4, 9, 14, 19)}) == 4  # copies differ from each other


def test_a_row_is_the_same_however_it_is_read(data):
    rows = Augmented(data=data, copies=2, drop=0.3, swap=0.3, seed=5).open()
    whole = list(rows)
    assert [rows[i] for i in reversed(range(len(rows)))] == whole[::-1]
    assert rows[3:12] == whole[3:12] and rows[7:7] == []
    assert list(Augmented(data=data, copies=2, drop=0.3, swap=0.3, seed=5).open()) == whole
    # More copies add rows and change none; another seed changes them.
    assert list(Augmented(data=data, copies=4, drop=0.3, swap=0.3, seed=5).open())[: len(whole)] == whole
    assert list(Augmented(data=data, copies=2, drop=0.3, swap=0.3, seed=6).open()) != whole


@quick
@given(st.text("ab \n\t.é\u2003", max_size=30), st.integers(0, 5))
def test_at_rate_0_the_text_stays(text, seed):
    assert changed(text, seed) == text


@quick
@given(words, st.integers(0, 5), st.floats(0, 1))
def test_words_that_are_left_out_leave_the_others_in_order(words, seed, rate):
    left = iter(words)
    kept = changed("  ".join(words), seed, drop=rate).split("  ")
    assert kept and all(word in left for word in kept)  # `in` an iterator goes on behind what it found


@quick
@given(words, st.integers(0, 5))
def test_at_rate_1_one_word_is_left_and_all_neighbours_change_places(words, seed):
    text = " ".join(words)
    assert changed(text, seed, drop=1.0) in words
    pairs = [words[i : i + 2][::-1] for i in range(0, len(words), 2)]
    assert changed(text, seed, swap=1.0) == " ".join(word for pair in pairs for word in pair)


def test_rates_are_probabilities_of_words():
    text = " ".join(f"w{i}" for i in range(20_000))
    assert abs(len(changed(text, drop=0.3).split()) / 20_000 - 0.7) < 0.02
    # A word may change places unless it just has: p of those behind a word that has not, so p / (1 + p) of all.
    moved = sum(old != new for old, new in zip(text.split(), changed(text, swap=0.3).split(), strict=True))
    assert abs(moved / 20_000 - 2 * 0.3 / 1.3) < 0.02
    # Whether a word is left out does not hang on whether it changed places: of some pairs both are left.
    left = [int(word[1:]) for word in changed(text, drop=0.5, swap=0.5).split()]
    assert any(one == other + 1 for one, other in zip(left, left[1:], strict=False))
    cats = changed("cat " * 20_000, replace=0.4)
    assert abs(cats.count("kitten") / 20_000 - 0.2) < 0.02 and abs(cats.count("tom cat") / 20_000 - 0.2) < 0.02


def test_synonyms_keep_case_punctuation_and_white_space():
    one = {"cat": ("cat", ["kitten"]), "usa": ("USA", ["America"])}
    text = 'A cat, "Cat" (CAT!)\n cats USA usa scat'
    assert changed(text, replace=1.0, table=one) == 'A kitten, "Kitten" (KITTEN!)\n cats America america scat'


@pytest.mark.parametrize(
    ("word", "found", "listed", "expected"),
    [
        ("she", "he", "he", "she"),
        ("she", "He", "he", "She"),
        ("she", "HE", "he", "SHE"),
        ("she", "hE", "he", "she"),
        ("Mary", "john", "John", "mary"),
        ("Mary", "JOHN", "John", "MARY"),
        ("we", "I", "I", "we"),
        ("the", "A", "a", "The"),  # one capital begins a sentence
        ("élan", "Verve", "verve", "Élan"),
    ],
)
def test_letter_case(word, found, listed, expected):
    assert cased(word, found, listed) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "word\tsynonyms\ncat\tkitten|tom cat\nUSA\tAmerica\n"),
        ("a.csv", "word,synonyms\ncat,kitten\nCat,tom cat\nUSA,America\n"),
        ("a.jsonl", '{"word": "cat", "synonyms": ["kitten", "tom cat"]}\n{"word": "USA", "synonyms": ["America"]}\n'),
    ],
)
def test_lists_of_synonyms(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_synonyms(str(tmp_path / name)) == TABLE


def test_mistakes(tmp_path, data):
    def message(**fields):
        with pytest.raises(UserError) as caught:
            Augmented(**{"data": data, **fields}).open()[:]
        return str(caught.value)

    all_of_it = message(copies=0, drop=1.5, swap=-0.1, seed=-1, data=Data(path="a", limit=0))
    for words in ("copies is 0", "drop is 1.5", "swap is -0.1", "seed is -1", "data: limit is 0"):
        assert words in all_of_it
    assert "no column 'txt'. Did you mean 'text'?" in message(columns=("txt",))
    (tmp_path / "plain.tsv").write_text("cat\tkitten\ndog\thound\n")
    said = message(synonyms=str(tmp_path / "plain.tsv"))
    assert "no column 'word' and no column 'synonyms'" in said and "they are 'cat', 'kitten'" in said
    (tmp_path / "bad.tsv").write_text("word\tsynonyms\ntwo words\tx\ncat\t\ndog\ta||b\nrat\tmouse\n")
    said = message(synonyms=str(tmp_path / "bad.tsv"))
    assert "row 1: 'two words'" in said and "row 2: ''" in said and "row 3: 'a||b'" in said and "row 4" not in said
    (tmp_path / "words.jsonl").write_text('{"text": ["a", "b"]}\n')
    said = message(data=Data(path=str(tmp_path / "words.jsonl")))
    assert "words.jsonl, row 1: column 'text' holds ['a', 'b'], expected a text to augment" in said


def test_a_task_learns_from_the_copies(tmp_path, tiny_bert, one_device):
    (tmp_path / "train.jsonl").write_text('{"text": "a good film", "label": "x"}\n{"text": "bad", "label": "y"}\n')
    data = Augmented(data=Data(path=str(tmp_path / "train.jsonl")), copies=3, drop=0.9)
    built = build(Config(model=str(tiny_bert), task=Classify(), data=data, lr=1e-3, batch=4, steps=2, max_len=16))
    encoded = built.encode("train")
    assert [int(encoded[i]["targets"][0]) for i in range(8)] == [0, 1] * 4
    assert min(encoded.lengths) < max(encoded.lengths) == encoded.lengths[0]


def test_a_synonym_takes_the_place_of_the_whole_word():
    """The last vowel sign of a word is no punctuation behind it."""
    guru, other = "\u0917\u0941\u0930\u0941", "\u0938\u093f\u0930"
    synonyms = {guru: (guru, [other]), "cafe\u0301": ("cafe\u0301", ["bar"])}
    changed = augment(f"{guru}, cafe\u0301!", np.random.default_rng(0), 0, 0, 1, synonyms)
    assert changed == f"{other}, bar!"
