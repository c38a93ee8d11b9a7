"""Files of answers: strict JSON, tables whose types do not depend on the first rows, and nothing of the rows lost."""

import datetime
import json

import numpy as np
import pytest
from conftest import rows_of
from pyarrow import parquet

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
