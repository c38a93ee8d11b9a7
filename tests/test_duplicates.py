"""Duplicates: which rows are equal, which is kept, what is said of it; rows that another set has too."""

import json

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.config import Config, Eval
from jaxft.config.component import config, from_json, to_json
from jaxft.config.overrides import override
from jaxft.data import Blanked, Data, Deduplicated
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.training.sources import open_sources


@config
class Listed:
    """A recipe's own source: pairs of text and label."""

    rows: tuple[tuple[str, str], ...]

    def open(self):
        return [{"text": text, "label": label} for text, label in self.rows]


TEXTS = [
    "A cat sat.",
    "a dog",
    "a  CAT\tsat.",
    "a cat sat",  # without its full stop: another text
    "Straße",
    "STRASSE",
    "caf\u00e9",
    " cafe\u0301\n",
    "a dog",
    "",
]
FIRST = [0, 1, 3, 4, 6, 9]


def write(path, rows) -> Data:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(path=str(path))


def messages(source) -> str:
    with pytest.raises(UserError) as caught:
        source.open()
    return str(caught.value)


def test_the_first_of_equal_texts_is_kept(tmp_path, caplog):
    rows = [{"text": text, "label": i % 3, "id": i} for i, text in enumerate(TEXTS)]
    with caplog.at_level("INFO", "jaxft"):
        read = Deduplicated(data=write(tmp_path / "a.jsonl", rows)).open()
    assert list(read) == [rows[i] for i in FIRST] and len(read) == len(FIRST)
    assert read.columns == ["text", "label", "id"]
    # Rows 2, 5, 7 and 8 went: of labels 2, 2, 1 and 2 where 0, 1, 0 and 1 are kept.
    assert "4 of 10 rows are duplicates by text" in caplog.text
    assert "differ from the first row in label (4), id (4)" in caplog.text
    assert read[-1] == rows[9] and read[2:4] == [rows[3], rows[4]] and read[4:4] == []


def test_several_columns(tmp_path):
    rows = [{"a": "x y", "b": "z"}, {"a": "x", "b": "y z"}, {"a": "X", "b": "Y  z"}, {"a": None, "b": "z"}]
    data = write(tmp_path / "a.jsonl", rows)
    assert list(Deduplicated(data=data, columns=("a", "b")).open()) == [rows[0], rows[1], rows[3]]
    assert list(Deduplicated(data=data, columns=("b",)).open()) == [rows[0], rows[1]]


def test_words_and_numbers_count_as_their_text(tmp_path):
    rows = [{"tokens": ["A", "cat"], "n": 1}, {"tokens": ["a", "Cat"], "n": 2}, {"tokens": ["acat"], "n": 1}]
    data = write(tmp_path / "a.jsonl", rows)
    assert list(Deduplicated(data=data, columns=("tokens",)).open()) == [rows[0], rows[2]]
    assert list(Deduplicated(data=data, columns=("n",)).open()) == rows[:2]


def test_rows_of_another_set_are_left_out(tmp_path, caplog):
    train = write(tmp_path / "train.jsonl", [{"text": text, "label": "x"} for text in TEXTS])
    test = write(tmp_path / "test.jsonl", [{"text": "A DOG"}, {"text": "strasse"}, {"text": "new"}])
    with caplog.at_level("INFO", "jaxft"):
        rows = Deduplicated(data=train, against=test).open()
    assert [row["text"] for row in rows] == [TEXTS[i] for i in (0, 3, 6, 9)]
    assert "2 of 6 distinct rows are also in" in caplog.text and "test.jsonl" in caplog.text
    assert "no row of" in messages(Deduplicated(data=train, against=train))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.text("aA \tß\u0301é", max_size=3), st.sampled_from("xy")), min_size=1, max_size=30))
def test_once_is_enough(pairs):
    rows = [{"text": text, "label": label} for text, label in pairs]
    once = list(Deduplicated(data=Listed(rows=tuple(pairs))).open())
    again = list(Deduplicated(data=Listed(rows=tuple((row["text"], row["label"]) for row in once))).open())
    assert once == again and once[0] == rows[0]
    # Each row that went has another, before it, whose letters are the same.
    assert {letters(row["text"]) for row in once} == {letters(row["text"]) for row in rows}
    assert len({letters(row["text"]) for row in once}) <= len(once)


def letters(text: str) -> str:
    """Coarser than what is compared: no white space at all, and no accents."""
    return "".join(text.split()).casefold().replace("\u0301", "").replace("é", "e")


def test_mistakes(tmp_path):
    data = write(tmp_path / "a.jsonl", [{"text": "a", "more": {"x": 1}}])
    assert "no column 'txt'. Did you mean 'text'?" in messages(Deduplicated(data=data, columns=("txt",)))
    assert "row 1: column 'more' holds {'x': 1}" in messages(Deduplicated(data=data, columns=("more",)))
    assert "columns is empty" in messages(Deduplicated(data=data, columns=()))
    assert "data is 'a.jsonl', expected a source" in messages(Deduplicated(data="a.jsonl"))
    both = messages(Deduplicated(data=Data(path="a", limit=0), against=Data(path="b", limit=-1)))
    assert "data: limit is 0" in both and "against: limit is -1" in both
    assert "against: no such file: ./no.csv" in messages(Deduplicated(data=data, against=Data(path="./no.csv")))


def test_within_a_configuration(tmp_path, tiny_bert):
    """A source within a source is one like any other: what is wrong with it is said before the run, with its place."""
    data = write(tmp_path / "a.jsonl", [{"text": text, "label": "x"} for text in TEXTS])
    options = {"model": str(tiny_bert), "task": Classify(), "lr": 1e-3, "batch": 2, "steps": 1}
    cfg = Config(**options, data=Deduplicated(data=data), evals={"val": Eval(data=Deduplicated(data=data))})
    assert cfg.problems() == [] and {name: len(rows) for name, rows in open_sources(cfg).items()} == {
        "train": len(FIRST),
        "val": len(FIRST),
    }
    assert from_json(json.loads(json.dumps(to_json(cfg)))) == cfg
    assert override(cfg, [("data.data.limit", "3")]) == [] and len(open_sources(cfg, ["train"])["train"]) == 2
    cfg.data = Deduplicated(data=Data(path="a.csv", limit=0))
    cfg.evals["val"].data = Blanked(data=7, columns=())
    assert cfg.problems() == [
        "config.data: data: limit is 0, expected 1 or more, or None",
        "config.evals.val.data: columns is empty: name one column or more",
        "config.evals.val.data: data is 7, expected a source such as Data(...)",
    ]


def test_class_numbers_stay_class_numbers(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    table = datasets.Dataset.from_dict({"text": ["a", "A", "b"], "label": [1, 0, -1]}, features=features)
    table.save_to_disk(tmp_path / "saved")
    rows = Deduplicated(data=Data(path=str(tmp_path / "saved"))).open()
    assert rows.classes == {"label": ["neg", "pos"]}
    assert list(rows.named()) == [{"text": "a", "label": "pos"}, {"text": "b", "label": None}]
