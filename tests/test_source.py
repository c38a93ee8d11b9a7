"""Sources: every kind of file gives exactly the values that are in it, and what is missing is explained."""

import csv
import datetime
import decimal
import gzip
import json
import logging
import os
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data import Data, gzipped, tables
from jaxft.data.source import Rows, as_rows
from jaxft.problems import UserError

ROWS = [{"text": "null", "label": "NA"}, {"text": "two\nlines", "label": "01"}, {"text": "", "label": "None"}]
CSV = (
    b"\xef\xbb\xbftext,label\r\n"
    b'null,NA\r\nnan,None\r\n,01\r\n"a, ""b""\r\nc",1.0\r\n\r\n"""",NULL\r\n  x  ,true\r\nInfinity,-0\r\n'
    b"\xc3\xa9,2020-01-01"
)
CELLS = [
    ("null", "NA"),
    ("nan", "None"),
    ("", "01"),
    ('a, "b"\r\nc', "1.0"),
    ('"', "NULL"),
    ("  x  ", "true"),
    ("Infinity", "-0"),
    ("é", "2020-01-01"),
]


def read(path, **fields):
    return Data(path=str(path), **fields).open()


def fails(path, *words, **fields):
    with pytest.raises(UserError) as caught:
        read(path, **fields)
    message = str(caught.value)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("open_file", [open, gzip.open])
def test_csv_cells_stay_text(tmp_path, open_file):
    path = tmp_path / ("a.csv" if open_file is open else "a.csv.gz")
    with open_file(path, "wb") as file:
        file.write(CSV)
    rows = read(path)
    assert rows.columns == ["text", "label"]
    assert [(row["text"], row["label"]) for row in rows] == CELLS
    assert rows[-1] == {"text": "é", "label": "2020-01-01"} and rows[3:5] == [rows[3], rows[4]]
    with pytest.raises(IndexError):
        rows[8]


def test_long_cells_and_many_rows(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["n", "text"], *([str(i), "x" * (300_000 if i == 7 else 3)] for i in range(25_000))]
        )
    rows = read(tmp_path / "a.csv")
    assert len(rows) == 25_000 and rows[24_999] == {"n": "24999", "text": "xxx"} and len(rows[7]["text"]) == 300_000


def test_malformed_csv_names_the_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"a\nb",1\nc,2,3\n')
    fails(path, "a.csv, row 2 (line 4)", "3 cells", "2 (text, label)")
    path.write_text("text,text\na,b\n")
    assert "'text' more than once" in read(path).mixed["text"]
    path.write_text('text,label\n"a,1\nb,2\n')
    fails(path, "quote=''")
    path.write_bytes(b"text\n\xff\n")
    fails(path, "UTF-8")


def test_tsv_without_quoting(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"a, b\t1\n5" disk\tNA\n')
    rows = read(tmp_path / "a.tsv", quote="")
    assert rows[:] == [{"text": '"a, b', "label": "1"}, {"text": '5" disk', "label": "NA"}]


def write(kind, path, rows):
    table = pa.table({key: [row[key] for row in rows] for key in rows[0]})
    if kind == "parquet":
        pa.parquet.write_table(table, path)
    elif kind in ("arrow", "stream"):
        make = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with make(str(path), table.schema) as writer:
            writer.write_table(table)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif kind == "data":
        path.write_text(json.dumps({"version": "1", "data": rows}))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("parquet", ".parquet"),
        ("arrow", ".arrow"),
        ("stream", ".arrow"),
        ("json", ".json"),
        ("data", ".json"),
        ("lines", ".json"),
        ("lines", ".jsonl"),
    ],
)
@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_every_kind_of_file(tmp_path, kind, suffix, zipped):
    path = tmp_path / f"a{suffix}"
    write(kind, path, ROWS)
    if zipped:
        packed = tmp_path / f"a{suffix}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    rows = read(path)
    assert list(rows) == ROWS and rows.columns == ["text", "label"] and rows.classes == {}
    assert rows[::-1] == ROWS[::-1]


def test_json_values_keep_their_kind(tmp_path):
    values = [
        {"id": 1, "score": 1, "when": "2020-01-01", "answers": {"text": ["a"], "start": [3]}, "tags": ["x", None]},
        {"id": None, "score": 2.5, "when": None, "answers": {"text": [], "start": []}, "tags": [], "late": True},
    ]
    write("lines", tmp_path / "a.jsonl", values)
    assert list(read(tmp_path / "a.jsonl")) == [values[0] | {"late": None}, values[1]]


def test_malformed_json_names_the_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    fails(path, "a.jsonl, line 3", "not JSON")
    path.write_text('{"a": 1}\n[1]\n')
    fails(path, "a.jsonl, line 2", "object")


def test_columns_of_several_kinds(tmp_path):
    """Their values stay as they are; what is wrong is said of each column, for tasks that read it."""
    path = tmp_path / "a.jsonl"

    def said(text) -> str:
        path.write_text(text)
        rows = Data(path=str(path)).open()
        assert rows[:] == [json.loads(line) for line in text.splitlines()] and rows.named().mixed == rows.mixed
        assert rows.first(1).mixed == rows.mixed and rows.mixed.keys() <= {"a"}
        return rows.mixed.get("a", "")

    found = said('{"a": 1}\n{"a": "x"}\n')
    assert "a.jsonl, row 2: 'x' in column 'a' has another type" in found and "write all values as text, or" in found
    found = said('{"a": [{"start": 1}], "b": 1}\n{"a": "x", "b": 2}\n')
    assert "row 2: 'x' in column 'a'" in found and found.endswith("write all values in one way")
    assert "a.jsonl, row 10002: 'x' in column 'a'" in said('{"a": 1}\n' * 10_001 + '{"a": "x"}\n')
    found = said('{"a": 1}\n' * 10_000 + '{"a": "x"}\n')
    assert "a.jsonl, rows 10001 to 10001" in found and "Field a has incompatible types" in found
    assert "row 1" in said('{"a": "\\ud83d"}\n' + '{"a": 1}\n') and said('{"a": null}\n{"a": 1}\n') == ""
    for name, value in (("b1", 1), ("b2", "x"), ("b3", None)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"a": value, "text": name}) + "\n")
    rows = Data(path=str(tmp_path / "b*.jsonl")).open()
    assert [row["a"] for row in rows] == [1, "x", None] and "b2.jsonl: column 'a' has another type" in rows.mixed["a"]


def test_txt_skips_empty_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\r\n\r\n two \u2028x\n\nnull".encode())
    assert [row["text"] for row in read(tmp_path / "a.txt")] == ["one", " two \u2028x", "null"]


def test_glob_is_sorted_and_columns_agree(tmp_path):
    for name in ("b", "a", "c"):
        write("lines", tmp_path / f"{name}.jsonl", [{"text": name, "n": 1 if name == "a" else 0.5}])
    rows = read(tmp_path / "*.jsonl")
    assert [row["text"] for row in rows] == ["a", "b", "c"] and [row["n"] for row in rows] == [1, 0.5, 0.5]
    write("lines", tmp_path / "b.jsonl", [{"words": "b"}])
    rows = read(tmp_path / "*.jsonl")
    assert rows.columns == ["text", "n", "words"] and [row["text"] for row in rows] == ["a", None, "c"]
    says = ["b.jsonl has no column 'text', which ", "a.jsonl has: name files with the same columns"]
    assert rows.mixed.keys() == {"text", "n", "words"} and all(say in rows.mixed["text"] for say in says)
    fails(tmp_path / "*.csv", "no file matches")


@pytest.mark.parametrize("kind, columns", [("torch", None), ("numpy", None), (None, ["label"]), ("pandas", ["label"])])
def test_a_saved_format_is_not_read(tmp_path, kind, columns):
    made = datasets.Dataset.from_dict({"text": ["a b", "c"], "label": [0, 1], "ids": [[1], [2, 3]]})
    made.set_format(kind, columns=columns)
    made.save_to_disk(tmp_path / "saved")
    wanted = [{"text": "a b", "label": 0, "ids": [1]}, {"text": "c", "label": 1, "ids": [2, 3]}]
    assert Data(path=str(tmp_path / "saved")).open()[:] == wanted and as_rows(made, "made")[:] == wanted
    made.set_transform(lambda rows: {"text": [text.upper() for text in rows["text"]]})
    assert as_rows(made, "made")[0] == {"text": "A B"}


def test_saved_directories(tmp_path):
    names = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    one = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=one, test=one.select([1])).save_to_disk(tmp_path / "two")
    rows = read(tmp_path / "one")
    assert rows.classes == {"label": ["neg", "pos"]} and rows[0] == {"text": "a", "label": 1}
    assert list(read(tmp_path / "two", split="test")) == [{"text": "b", "label": 0}]
    fails(tmp_path / "two", "which split?", "train, test")
    fails(tmp_path / "two", "no split 'tran'", "'train'", split="tran")
    fails(tmp_path / "one", "without splits", split="train")
    one.to_parquet(tmp_path / "one.parquet")
    assert read(tmp_path / "one.parquet").classes == {"label": ["neg", "pos"]}
    assert [row["label"] for row in read(tmp_path / "one.parquet").named()] == ["pos", "neg"]
    other = one.cast_column("label", datasets.ClassLabel(names=["neg", "fine"]))
    other.to_parquet(tmp_path / "other.parquet")
    fails(tmp_path / "*.parquet", "other.parquet has other class names")
    table = pa.parquet.read_table(tmp_path / "one.parquet")
    pa.parquet.write_table(table.replace_schema_metadata({"huggingface": "no"}), tmp_path / "damaged.parquet")
    fails(tmp_path / "damaged.parquet", "the metadata of its columns are damaged", "write the file again")


def test_files_are_read_without_what_is_large(tmp_path):
    """Importing `datasets` takes 0.5 s and 30 MiB, pandas, which Arrow makes arrays with, 0.3 s and 40 MiB."""
    (tmp_path / "a.csv").write_text("text,label\nx,y\n")
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": null}\n{"text": null, "label": "y"}\n')
    pa.parquet.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    code = f"""import sys
import jaxft.train, jaxft.training.fit, jaxft.training.setup, jaxft.benchmark.measurement
from jaxft.data import Data
for name in ("a.csv", "a.jsonl", "a.parquet"):
    assert Data(path={str(tmp_path)!r} + "/" + name).open()[0]["text"] == "x"
assert not {{"datasets", "pandas", "torch", "tensorflow"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=os.getcwd())


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))), st.integers(0, 40))
def test_columns_of_text_are_as_arrow_makes_them(values, most):
    """Also those that are too large for one array."""
    rows = [{"t": value} for value in values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "LARGEST", most)
        found = tables.table_of(iter(rows), "a file", {"t": pa.string()})
    found.validate(full=True)
    assert found.to_pylist() == rows


def test_more_text_than_one_array_holds(monkeypatch):
    made, array = [], pa.array
    monkeypatch.setattr(pa, "array", lambda values, **more: made.append(values) or array(values, **more))
    for most, by_arrow in ((4, False), (3, True)):
        monkeypatch.setattr(tables, "LARGEST", most)
        assert tables.table_of(iter([{"t": "ab"}, {"t": "\u00e9"}]), "a file").num_rows == 2 and bool(made) == by_arrow


def test_lists_of_numbered_classes(tmp_path):
    features = datasets.Features({"labels": datasets.List(datasets.ClassLabel(names=["news", "arts"]))})
    lists = [[1, 0], [], None, [-1, 1]]
    datasets.Dataset.from_dict({"labels": lists}, features=features).save_to_disk(tmp_path / "several")
    rows = read(tmp_path / "several")
    assert rows.classes == {"labels": ["news", "arts"]} and [row["labels"] for row in rows] == lists
    assert [row["labels"] for row in rows.named()] == [["arts", "news"], [], None, [None, "arts"]]


def test_what_is_missing_or_empty_is_named(tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_text("text\n")
    fails(tmp_path / "train.csv", "train.csv has no rows")
    (tmp_path / "empty.csv").write_text("")
    fails(tmp_path / "empty.csv", "empty.csv is empty")
    (tmp_path / "empty.jsonl").write_text("\n")
    fails(tmp_path / "empty.jsonl", "empty.jsonl has no rows")
    (tmp_path / "a.xls").write_text("")
    fails(tmp_path / "a.xls", ".jsonl", ".parquet")
    fails(tmp_path / "trian.csv", "no such file", "'train.csv'")
    fails(tmp_path / "away" / "a.csv", "no such file", "away is missing")
    fails(tmp_path / "train.csv", "splits", split="train")
    (tmp_path / "b.jsonl.gz").write_text("plain")
    fails(tmp_path / "b.jsonl.gz", "cannot be read")

    def offline(*arguments, **named):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    fails("someone/something", "no file, directory or cached dataset 'someone/something'", "no route", "save_to_disk")


def test_limit(tmp_path):
    (tmp_path / "a.txt").write_text("a\nb\nc\n")
    assert [row["text"] for row in read(tmp_path / "a.txt", limit=2)] == ["a", "b"]
    assert len(read(tmp_path / "a.txt", limit=9)) == 3
    fails(tmp_path / "a.txt", "limit is 0", limit=0)


def test_own_source_may_be_a_list():
    rows = as_rows(ROWS, "mine")
    assert rows[1] == ROWS[1] and rows[1:] == ROWS[1:] and rows.columns == ["text", "label"] and rows.name == "mine"
    assert as_rows(rows, "other") is rows
    with pytest.raises(UserError, match="mine has no rows"):
        as_rows([], "mine")


def test_blank_lines_of_a_text_file(tmp_path, caplog):
    """They are counted where they are left out, and with `documents` they separate the rows."""
    body = "One.\nTwo.\r\n\n\n \nThree.\n\n"
    (tmp_path / "a.txt").write_bytes(body.encode())
    with caplog.at_level(logging.INFO, "jaxft"):
        lines = Data(path=str(tmp_path / "a.txt")).open()
    assert [row["text"] for row in lines] == ["One.", "Two.", " ", "Three."]
    assert "3 empty lines are left out" in caplog.text and "documents=True" in caplog.text
    with gzip.open(tmp_path / "a.txt.gz", "wb") as file:
        file.write(body.encode())
    for name in ("a.txt", "a.txt.gz"):
        rows = Data(path=str(tmp_path / name), documents=True).open()
        assert [row["text"] for row in rows] == ["One.\nTwo.", "Three."]
    (tmp_path / "b.csv").write_text("text\na\n")
    with pytest.raises(UserError, match="documents=True is for .txt files"):
        Data(path=str(tmp_path / "b.csv"), documents=True).open()
    for blank in ("", "\n \n"):
        (tmp_path / "c.txt").write_text(blank)
        with pytest.raises(UserError, match="c.txt has no rows"):
            Data(path=str(tmp_path / "c.txt"), documents=True).open()
    (tmp_path / "c.txt").write_text("")
    with pytest.raises(UserError, match="c.txt has no rows"):
        Data(path=str(tmp_path / "c.txt")).open()


ODD = {
    "far": pa.array([1, None, 10**11 * 3], pa.timestamp("s")),
    "zone": pa.array([1, 2, 3], pa.timestamp("s", "Mars/Olympus")),
    "days": pa.array([1, 2, 10**8], pa.date32()),
    "before": pa.array([-(10**6), 2, 3], pa.date32()),
    "lasts": pa.array([1, 2, 2**62], pa.duration("s")),
    "nested": pa.array([{"at": [10**8]}, None, None], pa.struct({"at": pa.list_(pa.date32())})),
}


@pytest.mark.parametrize("column", ODD)
def test_values_that_python_cannot_express(column, tmp_path):
    """They are named where they are read, and do no harm where only other columns are."""
    table = pa.table({"text": ["a", "b", "c"], column: ODD[column]})
    row = 1 if column in ("zone", "before", "nested") else 3
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as file:
        file.write_table(table)
    datasets.Dataset(pa.table(table)).save_to_disk(str(tmp_path / "saved"))
    for name in ("a.parquet", "a.arrow", "saved"):
        rows = Data(path=str(tmp_path / name)).open()
        with pytest.raises(UserError, match=rf"{name}, row {row}: column '{column}' holds a .* Python cannot express"):
            rows[:]
        assert rows.only(["text", "absent"])[:] == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
        assert rows.only(["text"]).first(2)[1:] == [{"text": "b"}]


def test_values_that_python_expresses(tmp_path):
    """As Arrow's own conversion gives them, and the columns of a wrapped source likewise."""
    table = pa.table(
        {
            "day": pa.array([1], pa.date32()),
            "price": pa.array([decimal.Decimal("1.50")]),
            "map": pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64())),
            "kind": pa.array(["x"]).dictionary_encode(),
        }
    )
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    rows = Data(path=str(tmp_path / "a.parquet")).open()
    assert rows[0] == {
        "day": datetime.date(1970, 1, 2),
        "price": decimal.Decimal("1.50"),
        "map": [("a", 1), ("a", 2)],
        "kind": "x",
    }
    named = as_rows([{"text": "a", "label": 1}, {"text": "b", "label": 0}], "rows")
    named = Rows("rows", named.columns, {"label": ["no", "yes"]}, 2, named._read).named()
    assert named.only(["label"])[:] == [{"label": "yes"}, {"label": "no"}] and named.only(["text"])[0] == {"text": "a"}


@pytest.mark.parametrize(
    "path, words",
    [
        ("a\0b.csv", "path holds a NUL character: 'a\\x00b.csv'"),
        ("x" * 5000, "path is too long: 'xxx"),
        ("", "path is empty"),
        ("folder.csv", "folder.csv is a directory that save_to_disk did not write: expected a file"),
        ("/dev/null", "/dev/null is not a file: expected a file"),
    ],
)
def test_paths_that_are_no_files(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError) as caught:
        Data(path=path).open()
    assert words in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.txt.gz", "a.parquet.gz", "a.json.gz"])
def test_a_gzip_file_that_holds_far_too_much(name, tmp_path, monkeypatch):
    monkeypatch.setattr(gzipped, "EXPANDED", 2**20)
    with gzip.open(tmp_path / name, "wb") as file:
        file.write(b"0" * 2**24)
    with pytest.raises(UserError) as caught:
        Data(path=str(tmp_path / name)).open()
    assert "expands to more than 50 times its size" in str(caught.value) and "gunzip --keep" in str(caught.value)


def test_a_gzip_file_that_holds_as_much_as_texts_do(tmp_path):
    with gzip.open(tmp_path / "a.txt.gz", "wb") as file:
        file.write(b"a line\n" * 10_000)  # 500 times its size, but little
    assert len(Data(path=str(tmp_path / "a.txt.gz")).open()) == 10_000
