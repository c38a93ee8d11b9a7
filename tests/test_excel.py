"""Sheets of Excel files, written by openpyxl and read by calamine as well: the texts that a csv file would have."""

import builtins
import csv
import datetime as dates
import io
import zipfile

import openpyxl
import python_calamine
from sources import message, read

from jaxft.data import Data

CELLS = [
    ["text", "label", "score", "true", "day", "time", "clock", "lasts"],
    ["😀 天气", 3, 2.5, True, dates.date(2024, 5, 1), dates.datetime(2024, 5, 1, 13, 30, 5), dates.time(8, 5), None],
    ["  007 ", -1, 1e20, False, None, dates.datetime(1999, 12, 31), None, dates.timedelta(hours=30, minutes=5)],
    ["two\nlines", "3", 0.1, None, None, None, None, None],
]
TEXTS = [
    ["😀 天气", "3", "2.5", "True", "2024-05-01", "2024-05-01T13:30:05", "08:05:00", ""],
    ["  007 ", "-1", "100000000000000000000", "False", "", "1999-12-31", "", "30:05:00"],
    ["two\nlines", "3", "0.1", "", "", "", "", ""],
]


def book(path, **sheets):
    made = openpyxl.Workbook()
    made.remove(made.active)
    for name, rows in sheets.items():
        sheet = made.create_sheet(name)
        for row in rows:
            sheet.append(row)
    made.save(path)
    return str(path)


def test_cells_are_the_texts_of_a_csv_file(tmp_path):
    path = book(tmp_path / "a.xlsx", Data=CELLS)
    found = read(path)
    assert found == [dict(zip(CELLS[0], row, strict=True)) for row in TEXTS]
    theirs = python_calamine.CalamineWorkbook.from_path(path).get_sheet_by_name("Data").to_python()
    for ours, row in zip(found, theirs[1:], strict=True):
        assert ours["text"] == row[0] and float(ours["label"]) == float(row[1]) and float(ours["score"]) == row[2]
        assert [ours["day"], ours["clock"]] == [one.isoformat() if one else "" for one in (row[4], row[6])]
    (tmp_path / "a.csv").write_text("")
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([CELLS[0], *TEXTS])
    assert Data(path=str(tmp_path / "a.csv")).open()[:] == found


def test_sheets(tmp_path, caplog):
    caplog.set_level("INFO")
    path = book(tmp_path / "a.xlsx", Notes=[], Data=CELLS)
    assert len(read(path)) == 3 and "read is the sheet 'Data', the only one with cells" in caplog.text
    path = book(tmp_path / "b.xlsx", train=CELLS, test=CELLS[:2])
    assert "which sheet? Set config.data.sheet to one of: train, test" in message(path)
    assert len(read(path, sheet="test")) == 1 and len(read(path, sheet="train")) == 3
    assert "has no sheet 'tests'. Did you mean 'test'? Sheets: train, test" in message(path, sheet="tests")
    assert "no sheet has a cell" in message(book(tmp_path / "c.xlsx", a=[]))
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    assert "sheet is for .xlsx files" in message(tmp_path / "d.csv", sheet="x")


def test_where_the_table_begins(tmp_path):
    """Empty rows and columns are none; a table with a title or other cells beside it needs names."""
    rows = [[], [None, "text", "label"], [], [None, "a", 1], [None, None, 2], []]
    assert read(book(tmp_path / "a.xlsx", s=rows)) == [{"text": "a", "label": "1"}, {"text": "", "label": "2"}]
    said = message(book(tmp_path / "b.xlsx", s=[["text", None], ["a", "b"], ["c", "d", "e"]]))
    assert "sheet 's': the columns 2, 3 have cells, but no name in the first row: name them" in said
    rows = Data(path=book(tmp_path / "c.xlsx", s=[["text", "x", "x"], ["a", 1, 2]])).open()
    assert rows[0]["text"] == "a" and "the first row has 'x' more than once" in rows.mixed["x"] and len(rows.mixed) == 1
    assert "has no rows" in message(book(tmp_path / "d.xlsx", s=[["text", "label"]]))


def with_values(path, target, values):
    """A copy in which formulas have values, as a program that calculates writes them."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            for formula, value in values.items() if "worksheets" in name else ():
                data = data.replace(f"<f>{formula}</f><v />".encode(), f"<f>{formula}</f><v>{value}</v>".encode())
                data = data.replace(f"<f>{formula}</f><v></v>".encode(), f"<f>{formula}</f><v>{value}</v>".encode())
            new.writestr(name, data)
    return str(target)


def test_formulas_have_their_values(tmp_path, caplog):
    path = book(tmp_path / "a.xlsx", s=[["text", "label"], ["a", "=1+1"], ["b", "=2+2"], ["c", 5], ["d", "#N/A"]])
    assert "sheet 's': the formulas of the cells B2, B3 have no values" in message(path)
    done = with_values(path, tmp_path / "b.xlsx", {"1+1": 2, "2+2": 4})
    assert [row["label"] for row in read(done)] == ["2", "4", "5", ""]
    theirs = python_calamine.CalamineWorkbook.from_path(done).get_sheet_by_index(0).to_python()
    assert [row[1] for row in theirs[1:]] == [2, 4, 5, ""]
    assert "sheet 's': 1 cells hold errors such as #N/A, and are read as empty" in caplog.text


def test_what_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.xlsx").write_bytes(b"\xd0\xcf\x11\xe0 not a zip file")
    assert "is it damaged, or protected by a password" in message(tmp_path / "a.xlsx")
    path = book(tmp_path / "b.xlsx", s=CELLS)
    data = (tmp_path / "b.xlsx").read_bytes()
    (tmp_path / "c.xlsx").write_bytes(data[: len(data) // 2])
    assert "cannot be read as an Excel file" in message(tmp_path / "c.xlsx")
    with zipfile.ZipFile(tmp_path / "d.xlsx", "w") as file:
        file.writestr("a.txt", io.BytesIO(b"a").getvalue())
    assert "cannot be read as an Excel file" in message(tmp_path / "d.xlsx")
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "openpyxl":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'jaxft[excel]', or save it as .csv" in message(path)
