"""Separators and encodings of csv, tsv and txt, with pandas as the judge; what is found is said."""

import csv
import gzip
import json
import logging

import pandas as pd
import pytest
from sources import message, read

ROWS = [
    {"text": "gut; oder, nicht", "label": "1", "note": ""},
    {"text": 'she said "no"\nand left', "label": "0", "note": "a|b\tc"},
    {"text": "天气很好 😀", "label": "1", "note": "über"},
]


def write(path, rows=ROWS, delimiter=",", encoding="utf-8"):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("delimiter", ",;\t|")
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_what_a_file_holds_is_found(name, delimiter, encoding, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = write(tmp_path / name, delimiter=delimiter, encoding=encoding)
    theirs = pd.read_csv(path, sep=delimiter, encoding=encoding, dtype=str, keep_default_na=False)
    assert read(path) == ROWS == theirs.to_dict("records")
    usual = "\t" if ".tsv" in name else ","
    assert (f"cells are separated by {delimiter!r}" in caplog.text) == (delimiter != usual)
    assert (f"read as {encoding.upper()}, as its byte order mark says" in caplog.text) == (encoding[-2:] in "16 32")


def test_several_delimiters_are_an_error_with_the_fix(tmp_path):
    path = write(tmp_path / "a.csv", [{"id;text": "1;a", "label": "x"}, {"id;text": "2;b", "label": "y"}])
    said = message(path)
    assert "',', ';' may be the delimiter" in said and "set config.data.delimiter, such as ','" in said
    assert read(path, delimiter=";") == [{"id": "1", "text,label": "a,x"}, {"id": "2", "text,label": "b,y"}]
    assert read(path, delimiter=",")[0] == {"id;text": "1;a", "label": "x"}
    # A character that is missing from some rows is not taken as the delimiter.
    path = write(tmp_path / "b.csv", [{"id;text": "1;a", "label": "x"}, {"id;text": "2", "label": "y"}])
    assert read(path)[1] == {"id;text": "2", "label": "y"}
    # After the rows that are looked at, each row is still checked.
    rows = "\n".join(["text;label", *["a;1"] * 150, "a;b;2"])
    (tmp_path / "c.csv").write_text(rows)
    assert "row 151 (line 152): 3 cells, but the header has 2 (text, label)" in message(tmp_path / "c.csv")


WESTERN = {
    "French": "L’été, à Noël : «Où êtes-vous, cœur naïf ?» — 20 €",
    "German": "Die Straße über Köln: „Grüße“ • 10 §",
    "Spanish": "¿Qué? ¡Mañana! Año número 1º",
    "Portuguese": "As ações não são só você, órgãos à mão",
    "Danish": "Smørrebrød på Ærø, œuvre",
}


@pytest.mark.parametrize("language", WESTERN)
@pytest.mark.parametrize("suffix", [".csv", ".txt", ".csv.gz"])
def test_windows_1252_is_read_and_said(language, suffix, tmp_path, caplog):
    text = WESTERN[language]
    if suffix == ".txt":
        (tmp_path / "a.txt").write_bytes(f"plain\n{text}\n".encode("cp1252"))
        found = read(tmp_path / "a.txt")
    else:
        found = read(write(tmp_path / f"a{suffix}", [{"text": "plain"}, {"text": text}], encoding="cp1252"))
    assert found == [{"text": "plain"}, {"text": text}]
    assert "is not UTF-8: read as Windows-1252 (cp1252), in which it begins" in caplog.text
    assert "set config.data.encoding" in caplog.text


OTHERS = {
    "cp1251": "Привет, как дела?",
    "koi8-r": "Привет, как дела?",
    "gb18030": "天气很好，我们去公园",
    "shift_jis": "今日は天気がいい",
    "euc_kr": "안녕하세요",
    "cp1253": "Καλημέρα σας",
    "cp1250": "Zażółć gęślą jaźń, Łódź",
    "cp1256": "مرحبا بالعالم",
}


@pytest.mark.parametrize("encoding", OTHERS)
def test_other_encodings_have_to_be_named(encoding, tmp_path):
    path = write(tmp_path / "a.csv", [{"text": OTHERS[encoding]}], encoding=encoding)
    said = message(path)
    assert "line 2, byte" in said and "is not UTF-8" in said and "set config.data.encoding, such as" in said
    assert read(path, encoding=encoding) == [{"text": OTHERS[encoding]}]


def test_damaged_utf8_is_not_another_encoding(tmp_path):
    data = "text\ngrün\nblau und schön\n".encode()
    (tmp_path / "a.csv").write_bytes(data + b"\xfcber\n")
    assert "line 4, byte 1 of the line, is not UTF-8 (invalid start byte), and other" in message(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"text\ncaf\xe9 \x81\n")
    assert "and it is not Windows-1252: set config.data.encoding" in message(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_bytes("text\nä\n".encode("utf-16-le"))
    assert "begins with NUL bytes" in message(tmp_path / "c.csv")
    assert read(tmp_path / "c.csv", encoding="utf-16-le") == [{"text": "ä"}]
    (tmp_path / "d.jsonl").write_bytes(json.dumps({"text": "é"}, ensure_ascii=False).encode("cp1252"))
    assert "is not UTF-8" in message(tmp_path / "d.jsonl")
    assert read(tmp_path / "d.jsonl", encoding="latin-1") == [{"text": "é"}]
    assert "a.csv is not ASCII" in message(tmp_path / "a.csv", encoding="ascii")
    assert "encoding is 'utf-9', expected a name such as utf-8" in message(tmp_path / "a.csv", encoding="utf-9")
    assert "encoding is 'hex', expected" in message(tmp_path / "a.csv", encoding="hex")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_mark_is_no_text_when_the_encoding_is_named(encoding, tmp_path):
    file = tmp_path / "rows.txt"
    file.write_bytes("\ufeffhello\nworld\n".encode(encoding))
    assert read(file, encoding=encoding) == [{"text": "hello"}, {"text": "world"}]


def test_empty_lines_before_the_header(tmp_path):
    (tmp_path / "rows.csv").write_text("\n\na,b\n1,2\n")
    assert read(tmp_path / "rows.csv") == [{"a": "1", "b": "2"}]
