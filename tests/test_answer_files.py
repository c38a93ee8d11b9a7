"""Files of answers: strict JSON, tables whose types do not depend on the first rows, and nothing of the rows lost."""

import datetime
import json

import numpy as np
import pandas
import pytest
from conftest import rows_of
from pyarrow import parquet

from jaxft.data import Data
from jaxft.data.number_cells import with_numbers
from jaxft.host import strict_json
from jaxft.inference.answer_files import Lines, Table, write_answers
from jaxft.problems import UserError

ENTITY = {"type": "PER", "start": 0, "end": 1, "text": "b", "score": 0.9}


class Answers:
    """A model whose answers are given, in the order of the rows."""

    arch = type("", (), {"kind": "token-classification"})
    unanswerable: list[str] = []

    def __init__(self, answers):
        self.answers = list(answers)

    def predict(self, texts, batch):
        found, self.answers = self.answers[: len(texts)], self.answers[len(texts) :]
        return found


def table_of(path, rows, answers, monkeypatch, chunk=2) -> list[dict]:
    monkeypatch.setattr("jaxft.inference.answer_files.CHUNK", chunk)
    write_answers(Answers(answers), rows_of(rows), ["text"], 8, str(path))
    return parquet.read_table(path).to_pylist()


def test_types_of_answers_are_known_beforehand(tmp_path, monkeypatch):
    """An entity and a cut text that come late, empty lists, missing scores, columns that begin with nothing."""
    rows = [{"text": "a", "n": None, "tags": []} for _ in range(6)] + [{"text": "b", "n": 1.5, "tags": ["x"]}]
    late = [{"entities": []}] * 5 + [{"entities": [], "read": 440}, {"entities": [ENTITY]}]
    found = table_of(tmp_path / "out.parquet", rows, late, monkeypatch)
    assert found == [
        row | {"entities": a["entities"], "read": a.get("read")} for row, a in zip(rows, late, strict=True)
    ]
    tags = [{"tags": [], "scores": []}] * 6 + [{"tags": ["O", None], "scores": [0.5, None], "read": 1}]
    found = table_of(tmp_path / "out.parquet", rows, tags, monkeypatch)
    assert [row["predicted_tags"] for row in found] == [answer["tags"] for answer in tags]
    assert [row["tags"] for row in found] == [row["tags"] for row in rows] and found[-1]["scores"] == [0.5, None]
    words = {"word": "b", "start": 0, "end": 1, "tag": "NN", "score": 0.5}
    silent = {"answer": "", "score": 0.0, "start": 0, "end": 0, "no_answer": None, "candidates": []}
    span = {"answer": "b", "score": 0.5, "start": 0, "end": 1}
    pairs = (
        ({"tags": []}, {"tags": [words]}),
        (silent, {**span, "no_answer": -1.0, "candidates": [span]}),
        ({"perplexity": None}, {"perplexity": 2.5}),
        ({"labels": [], "scores": []}, {"labels": ["x"], "scores": [0.5]}),
        ({"tokens": []}, {"tokens": ["x"]}),
        ({"choice": 0, "score": 0.5, "scores": [0.5]}, {"choice": 1, "score": 1.0, "scores": [0.5, 0.5]}),
        ({"value": 1.0}, {"value": 2.0}),
        ({"embedding": [1.0]}, {"embedding": [2.0]}),
    )
    for early, later in pairs:
        plain = [{"text": "a"}] * 3
        found = table_of(tmp_path / "out.parquet", plain, [early, early, later], monkeypatch)
        assert [{name: row[name] for name in later} for row in found] == [early, early, later]


def test_types_of_columns_are_those_of_all_rows(tmp_path, monkeypatch):
    rows = [{"text": "a", "x": 1, "y": [], "z": None}] * 3 + [{"text": "a", "x": 2.5, "y": [{"q": "w"}], "z": "t"}]
    found = table_of(tmp_path / "out.parquet", rows, [{"label": "x", "score": 0.5}] * 4, monkeypatch, 1)
    assert [row["x"] for row in found] == [1, 1, 1, 2.5] and found[-1]["z"] == "t" and found[-1]["y"] == [{"q": "w"}]
    with pytest.raises(UserError, match="rows do not fit a table: write .jsonl instead"):
        model = Answers([])  # which is not asked
        mixed = rows_of([{"text": "a", "x": 1}, {"text": "a", "x": "one"}])
        write_answers(model, mixed, ["text"], 8, str(tmp_path / "bad.parquet"))
    assert not list(tmp_path.glob("bad*"))


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    rows = [{"text": "ä", "price": float("nan"), "when": datetime.date(2024, 1, 2), "deep": [{"x": float("inf")}, 1.5]}]
    made = Lines(str(tmp_path / "out.jsonl"), 1)
    made.add(rows, [{"label": "x", "score": -float("inf")}])
    made.close()
    line = (tmp_path / "out.jsonl").read_text()
    assert strict_json.parse(line) == {
        "text": "ä",
        "price": None,
        "when": "2024-01-02",
        "deep": [{"x": None}, 1.5],
        "label": "x",
        "score": None,
    }
    assert "ä" in line
    value = {"a": (1.5, float("nan")), "b": {"c": [np.float64("inf")]}, "d": "NaN"}
    assert json.loads(strict_json.dumps(value)) == {"a": [1.5, None], "b": {"c": [None]}, "d": "NaN"}


FILES = {".csv": ",", ".tsv": "\t"}


@pytest.mark.parametrize("ending", FILES)
def test_separated_columns_are_what_pandas_reads(ending, tmp_path, monkeypatch):
    """Quotes, line breaks, lists as JSON, nothing for None, a field that comes late, and one column per label."""
    monkeypatch.setattr("jaxft.inference.answer_files.CHUNK", 1)
    rows = [
        {"text": 'a "b",\tc\nd', "label": "x", "n": 3, "x": 0.5, "on": True, "more": ["ö", 1], "none": None},
        {"text": "", "label": "y", "n": 4, "x": 2.0, "on": False, "more": [], "none": "NA"},
    ]
    answers = [
        {"labels": ["x"], "scores": [0.25], "label_scores": {"x": 0.25, "y": 0.125}},
        {"labels": [], "scores": [], "label_scores": {"x": 0.0, "y": 1e-9}},
    ]
    write_answers(Answers(answers), rows_of(rows), ["text"], 8, str(tmp_path / f"out{ending}"))
    options = {"keep_default_na": False, "dtype": {"none": str}, "sep": FILES[ending]}
    found = pandas.read_csv(tmp_path / f"out{ending}", **options).to_dict("records")
    for row, line, answer in zip(rows, found, answers, strict=True):
        assert [line[name] for name in ("text", "label", "n", "x", "on")] == [*row.values()][:5]
        assert json.loads(line["more"]) == row["more"] and line["none"] == (row["none"] or "")
        assert json.loads(line["labels"]) == answer["labels"] and json.loads(line["scores"]) == answer["scores"]
        assert [line["label_scores.x"], line["label_scores.y"]] == [*answer["label_scores"].values()]
    tags = [{"entities": []}, {"entities": [ENTITY], "read": 7}]
    plain = rows_of([{"text": "a", "label": "b"}] * 2)
    write_answers(Answers(tags), plain, ["text"], 8, str(tmp_path / f"out{ending}"))
    found = pandas.read_csv(tmp_path / f"out{ending}", keep_default_na=False, sep=FILES[ending]).to_dict("records")
    assert [line["read"] for line in found] == ["", "7"] and json.loads(found[1]["entities"]) == [ENTITY]
    write_answers(Answers([{"label": "z"}] * 2), plain, ["text"], 8, str(tmp_path / f"out{ending}"))
    found = pandas.read_csv(tmp_path / f"out{ending}", sep=FILES[ending])
    assert [*found] == ["text", "label", "predicted_label"] and [*found["predicted_label"]] == ["z", "z"]


@pytest.mark.parametrize("output", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("ending", FILES)
def test_numbers_of_separated_columns_stay_numbers(ending, output, tmp_path, caplog):
    """A column of numbers only; what a number would not give back, letter for letter, stays a text."""
    caplog.set_level("INFO", "jaxft")
    columns = {
        "text": ["a", "b", "c"],
        "id": ["3", "0", "-12"],
        "price": ["0.5", "", "3"],
        "small": ["1e-07", "2.0", "1"],
        "zip": ["01067", "10115", "80331"],
        "cents": ["1.50", "2.25", "1"],
        "plus": ["+3", "1", "2"],
        "word": ["1", "2", "nan"],
        "long": ["9007199254740993", "1", "2"],
        "arabic": ["٣", "1", "2"],
        "none": ["", "", ""],
    }
    pandas.DataFrame(columns).to_csv(tmp_path / f"in{ending}", sep=FILES[ending], index=False)
    path = str(tmp_path / f"in{ending}")
    rows = Data(path=path).open()
    answers = [{"label": "x", "score": 0.5}] * 3
    write_answers(Answers(answers), rows, ["text"], 8, str(tmp_path / f"out.{output}"), with_numbers(rows, path))
    assert "are written as numbers: id, price, small" in caplog.text
    if output == "csv":
        found = pandas.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
        assert {name: [*found[name]] for name in columns} == columns
        return
    if output == "parquet":
        found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    else:
        found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    numbers = {"id": [3, 0, -12], "price": [0.5, None, 3], "small": [1e-07, 2.0, 1]}
    assert {name: [row[name] for row in found] for name in columns} == columns | numbers
    assert [type(row["id"]) for row in found] == [int] * 3


def test_whole_numbers_of_json_stay_whole(tmp_path):
    lines = '{"text": "a", "n": 3, "x": 3, "f": 2.0, "t": "3"}\n{"text": "b", "x": 2.5, "f": 1.0, "t": "4"}\n'
    (tmp_path / "in.jsonl").write_text(lines)
    path = str(tmp_path / "in.jsonl")
    rows = Data(path=path).open()
    write_answers(Answers([{}, {}]), rows, ["text"], 8, str(tmp_path / "out.jsonl"), with_numbers(rows, path))
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    assert written == [
        '{"text": "a", "n": 3, "x": 3, "f": 2.0, "t": "3"}',
        '{"text": "b", "n": null, "x": 2.5, "f": 1.0, "t": "4"}',
    ]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_no_column_is_overwritten(ending, tmp_path, caplog):
    rows = rows_of([{"text": "a", "label": "gold", "predicted_label": "mine", "score": 3}] * 2)
    write_answers(Answers([{"label": "x", "score": 0.5}] * 2), rows, ["text"], 8, str(tmp_path / f"out.{ending}"))
    if ending == "jsonl":
        found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    else:
        found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert found == [dict(rows[0]) | {"predicted_predicted_label": "x", "predicted_score": 0.5}] * 2
    assert (
        "the rows have columns label, predicted_label, so that answers are called predicted_predicted_label"
        in caplog.text
    )


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_link_is_replaced_and_its_target_stays(ending, tmp_path):
    (tmp_path / "else").write_text("somebody's")
    (tmp_path / f"out.{ending}").symlink_to(tmp_path / "else")
    (tmp_path / f"out.{ending}.partial").symlink_to(tmp_path / "else")
    rows = rows_of([{"text": "a"}])
    write_answers(Answers([{"label": "x"}]), rows, ["text"], 8, str(tmp_path / f"out.{ending}"))
    assert (tmp_path / "else").read_text() == "somebody's" and not (tmp_path / f"out.{ending}").is_symlink()


def test_a_table_without_its_rows(tmp_path):
    """Made with their number alone, it has the types of the first rows."""
    made = Table(str(tmp_path / "cut.parquet"), 2)
    made.add([{"text": "short"}, {"text": "long"}], [{"entities": []}, {"entities": [], "read": 440}])
    with pytest.raises(UserError, match="do not fit the table of the ones before: write .jsonl instead"):
        made.add([{"text": 7}], [{"entities": "x"}])
    made.close()
    assert parquet.read_table(tmp_path / "cut.parquet").column_names == ["text", "entities", "read"]


@pytest.mark.parametrize("ending", FILES)
def test_a_carriage_return_stays_in_its_cell(ending, tmp_path):
    texts = ["a", "c\rd", "\r", 'e"\r\nf', "g\nh"]
    rows = rows_of([{"text": text} for text in texts])
    write_answers(Answers([{"label": "z"}] * 5), rows, ["text"], 8, str(tmp_path / f"out{ending}"))
    assert [row["text"] for row in Data(path=str(tmp_path / f"out{ending}")).open()] == texts
    found = pandas.read_csv(tmp_path / f"out{ending}", sep=FILES[ending], lineterminator=None)
    assert [*found["text"]] == texts
