"""Exports of annotation tools, written as the tools write them: the rows, what offsets count, what is refused."""

import json
import logging

import pytest

from jaxft.data import Data
from jaxft.problems import UserError

# Two of its characters, the emoji and the letter of the old Gothic script, are beyond the BMP.
TEXT = "😀 Angela Merkel met 𐌰tta in København"
PIECES = [("Angela Merkel", "PER"), ("𐌰tta", "PER"), ("København", "LOC")]
PLAIN = "Nothing here."


def character_places(text, pieces):
    return [(text.index(piece), text.index(piece) + len(piece), label) for piece, label in pieces]


def javascript_places(text, pieces):
    """As `indexOf` and `length` count, found in the bytes of UTF-16."""
    data = text.encode("utf-16-le")
    found = [(data.index(piece.encode("utf-16-le")) // 2, piece, label) for piece, label in pieces]
    return [(start, start + len(piece.encode("utf-16-le")) // 2, label) for start, piece, label in found]


PLACES, UTF16 = character_places(TEXT, PIECES), javascript_places(TEXT, PIECES)
ROWS = [
    {"text": TEXT, "spans": [{"start": s, "end": e, "label": label} for s, e, label in PLACES]},
    {"text": PLAIN, "spans": []},
]


def as_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


def as_json(path, value):
    path.write_text(json.dumps(value, indent=2))
    return str(path)


def read(path, **options):
    return Data(path=path, **options).open()


def texts_and_spans(rows):
    return [{"text": row["text"], "spans": row["spans"]} for row in rows]


def doccano(places=PLACES):
    return [
        {"id": 7, "text": PLAIN, "label": [], "Comments": []},
        {"id": 8, "text": TEXT, "label": [list(place) for place in places], "Comments": []},
    ]


def doccano_entities():
    entities = [{"id": 10 + i, "label": p[2], "start_offset": p[0], "end_offset": p[1]} for i, p in enumerate(PLACES)]
    relation = {"id": 0, "from_id": 10, "to_id": 11, "type": "met"}
    return [
        {"id": 8, "text": TEXT, "entities": entities, "relations": [relation], "Comments": []},
        {"id": 7, "text": PLAIN, "entities": [], "relations": [], "Comments": []},
    ]


def result(start, end, label, text):
    value = {"start": start, "end": end, "text": text, "labels": [label]}
    return {
        "value": value,
        "id": f"r{start}",
        "from_name": "label",
        "to_name": "text",
        "type": "labels",
        "origin": "manual",
    }


def results(places):
    return [result(s, e, label, piece) for (s, e, label), (piece, _) in zip(places, PIECES, strict=True)]


def annotation(found, **more):
    return {"id": 1, "completed_by": 1, "result": found, "was_cancelled": False, "ground_truth": False, **more}


def task(number, text, annotations, **data):
    return {
        "id": number,
        "annotations": annotations,
        "file_upload": "a1b2-texts.txt",
        "drafts": [],
        "predictions": [],
        "data": {"text": text, **data},
        "meta": {},
        "created_at": "2024-05-01T10:00:00.000000Z",
        "project": 1,
    }


def label_studio(places=UTF16):
    return [
        task(2, PLAIN, [annotation([])], source="b.txt"),
        task(1, TEXT, [annotation(results(places)[::-1])], source="a.txt"),
    ]


def label_studio_min(places=UTF16):
    more = {"annotator": 1, "annotation_id": 5, "created_at": "2024-05-01", "updated_at": "2024", "lead_time": 3.5}
    label = [one["value"] for one in results(places)]
    return [{"id": 2, "text": PLAIN, **more}, {"id": 1, "text": TEXT, "label": label, **more}]


def prodigy():
    tokens = [{"text": "😀", "start": 0, "end": 1, "id": 0, "ws": True}]
    spans = [{"start": s, "end": e, "label": x, "token_start": 1, "token_end": 2} for s, e, x in PLACES]
    more = {"_input_hash": -17, "_task_hash": 42, "_view_id": "ner_manual", "meta": {"section": "news"}}
    return [
        {"text": TEXT, "tokens": tokens, "spans": spans, "answer": "accept", **more},
        {"text": PLAIN, "tokens": [], "spans": [], "answer": "accept", **more},
        {"text": "Paris", "spans": [{"start": 0, "end": 5, "label": "LOC"}], "answer": "reject", **more},
        {"text": "Rome", "spans": [], "answer": "ignore", **more},
    ]


def spacy():
    return [[TEXT, {"entities": PLACES}], [PLAIN, {"entities": []}]]


def brat(folder):
    """brat writes a span over a line break in two pieces, and the text with a space."""
    text = TEXT + "\nNew\nYork, R&D"
    york = text.index("New")
    lines = [f"T{i}\t{x} {s} {e}\t{text[s:e]}\n" for i, (s, e, x) in enumerate(PLACES, 1)]
    lines += [f"T9\tLOC {york} {york + 3};{york + 4} {york + 8}\tNew York\n"]
    lines += ["R1\tMet Arg1:T1 Arg2:T2\n", "#1\tAnnotatorNotes T1\tthe chancellor\n", "A1\tNegated T2\n"]
    (folder / "b.txt").write_text(text)
    (folder / "b.ann").write_text("".join(lines))
    (folder / "a.txt").write_text(PLAIN)
    (folder / "a.ann").write_text("")
    return text, york


FILES = {
    "doccano": lambda path: as_lines(path / "a.jsonl", doccano()),
    "doccano, entities": lambda path: as_lines(path / "a.jsonl", doccano_entities()),
    "Label Studio": lambda path: as_json(path / "a.json", label_studio()),
    "JSON-MIN": lambda path: as_json(path / "a.json", label_studio_min()),
    "Prodigy": lambda path: as_lines(path / "a.jsonl", prodigy()),
    "spaCy": lambda path: as_json(path / "a.json", spacy()),
    "spaCy, lines": lambda path: as_lines(path / "a.jsonl", spacy()),
    "spaCy, objects": lambda path: as_json(path / "a.json", [{"text": TEXT, "entities": PLACES}, {"text": PLAIN}]),
    "spaCy, one object": lambda path: as_json(
        path / "a.json", {"classes": ["PER", "LOC"], "annotations": [*spacy(), None]}
    ),
    "its own form": lambda path: as_lines(path / "a.jsonl", ROWS),
}


@pytest.mark.parametrize("tool", FILES)
def test_every_export_becomes_the_same_rows(tool, tmp_path):
    rows = read(FILES[tool](tmp_path))
    expected = [ROWS[0], {"text": PLAIN, "spans": None}] if tool == "spaCy, objects" else ROWS
    found = texts_and_spans(rows)
    assert sorted(found, key=lambda row: row["text"], reverse=True) == expected
    assert rows.mixed == {} and rows.columns[-2:] == ["text", "spans"]
    pieces = [[row["text"][span["start"] : span["end"]] for span in row["spans"] or []] for row in found]
    assert sorted(pieces) == [[], [piece for piece, _ in PIECES]]


def test_brat(tmp_path):
    text, york = brat(tmp_path)
    rows = read(str(tmp_path / "*.ann"))
    assert rows[0] == {"id": "a", "text": PLAIN, "spans": []}
    assert rows[1] == {
        "id": "b",
        "text": text,
        "spans": [*ROWS[0]["spans"], {"start": york, "end": york + 8, "label": "LOC"}],
    }
    (tmp_path / "a.ann").write_text("T1\tPER 0 3;9 12\tNot ere\nT2\tPER 0;3\nT3\tLOC 0 7;8 12\tNothing here\n")
    with pytest.raises(UserError) as caught:
        read(str(tmp_path / "a.ann"))
    assert "a.ann, line 1: T1 (PER) is discontinuous, 0 3;9 12: tags cannot express it" in caught.value.problems[0]
    assert "a.ann, line 2: expected T1, a tab" in caught.value.problems[1] and len(caught.value.problems) == 2
    (tmp_path / "c.ann").write_text("")
    with pytest.raises(UserError, match=r"its text is missing: there is no .*c\.txt"):
        read(str(tmp_path / "c.ann"))


def test_the_text_of_brat_has_an_encoding_of_its_own(tmp_path, caplog):
    (tmp_path / "x.txt").write_bytes("Köln hat John".encode("latin-1"))
    (tmp_path / "x.ann").write_text("T1\tPER 9 13\tJohn\nT2\tLOC 0 4\tKöln\n")
    assert read(str(tmp_path / "x.ann"))[0]["text"] == "Köln hat John"
    assert "x.txt is not UTF-8: read as Windows-1252" in caplog.text
    (tmp_path / "x.txt").write_bytes("Köln hat John".encode("utf-16"))
    assert read(str(tmp_path / "x.ann"))[0]["spans"][0] == {"start": 9, "end": 13, "label": "PER"}
    with pytest.raises(UserError, match=r"x\.txt is not UTF-8 \("):
        read(str(tmp_path / "x.ann"), encoding="utf-8")


def test_what_offsets_count_is_seen_and_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    read(FILES["Label Studio"](tmp_path))
    assert "offsets of spans count utf16, as the texts of the spans show" in caplog.text
    caplog.clear()
    rows = read(as_json(tmp_path / "code_points.json", label_studio(PLACES)))
    assert "utf16" not in caplog.text and texts_and_spans(rows)[1] == ROWS[0]
    # doccano's export has no texts of spans: what is taken is said, and can be changed.
    for unit, places in {"utf16": UTF16, "graphemes": PLACES}.items():
        caplog.clear()
        long = doccano(places)
        long[1]["text"] += " again"
        path = as_lines(tmp_path / "d.jsonl", long)
        if unit == "utf16":
            read(path)
            assert "read as characters; as utf16 some would be other ones (the first:" in caplog.text
            assert "row 2). If the tool counts these, set config.data.offsets=utf16" in caplog.text
        caplog.clear()
        assert read(path, offsets=unit)[1]["spans"] == ROWS[0]["spans"] and "would be" not in caplog.text
    with pytest.raises(UserError, match="row 2: the span 30 to 39 .LOC. is outside of the text, which has 37"):
        read(as_lines(tmp_path / "e.jsonl", doccano(UTF16)))


def test_graphemes_are_characters_as_readers_see_them(tmp_path):
    """doccano can count a family of three as one."""
    text = "👩‍👩‍👧 Zoë: Aŕhus"
    path = as_lines(tmp_path / "a.jsonl", [{"text": text, "label": [[2, 5, "PER"], [7, 12, "LOC"]]}])
    spans = read(path, offsets="graphemes")[0]["spans"]
    assert [text[span["start"] : span["end"]] for span in spans] == ["Zoë", "Aŕhus"]
    with pytest.raises(UserError, match="outside of the text, which has 12, or ends before it .*graphemes"):
        read(as_lines(tmp_path / "b.jsonl", [{"text": text, "label": [[7, 13, "LOC"]]}]), offsets="graphemes")
    with pytest.raises(UserError, match="offsets is 'utf-16', expected characters or utf16 or graphemes.* 'utf16'"):
        read(path, offsets="utf-16")


def test_texts_that_no_unit_explains(tmp_path):
    wrong = [(start + 1, end, label) for start, end, label in UTF16]
    with pytest.raises(UserError) as caught:
        read(as_json(tmp_path / "a.json", label_studio(wrong)))
    assert len(caught.value.problems) == 3
    assert "row 2: the span 4 to 16 is 'gela Merkel ', not 'Angela Merkel', as the file says" in str(caught.value)
    tokens = prodigy()[0] | {"tokens": [{"text": "x", "start": 0, "end": 1, "id": 0}]}
    with pytest.raises(UserError, match="the span 0 to 1 is '😀', not 'x'"):
        read(as_lines(tmp_path / "b.jsonl", [tokens]))
    with pytest.raises(UserError, match=r"row 2: the span 1 to 3 .X. begins or ends inside a character"):
        rows = [{"text": "ab", "label": [[0, 1, "X"]]}, {"text": "😀😀", "label": [[1, 3, "X"]]}]
        read(as_lines(tmp_path / "c.jsonl", rows), offsets="utf16")


def test_annotators_of_label_studio(tmp_path):
    one, other = annotation(results(UTF16)), annotation(results(UTF16)[:1])
    skipped = annotation([], was_cancelled=True)
    truth = annotation(results(UTF16), ground_truth=True)
    same = [task(1, TEXT, [one, one, skipped]), task(2, TEXT, [other, truth]), task(3, PLAIN, [skipped])]
    rows = read(as_json(tmp_path / "a.json", same))
    assert texts_and_spans(rows) == [ROWS[0], ROWS[0], {"text": PLAIN, "spans": None}]
    assert [row["id"] for row in rows] == [1, 2, 3]
    with pytest.raises(UserError, match="row 1: 2 annotations of task 4 have different spans: mark one of them"):
        read(as_json(tmp_path / "b.json", [task(4, TEXT, [one, other])]))
    twice = label_studio_min() + [label_studio_min()[1]]
    assert len(read(as_json(tmp_path / "c.json", twice))) == 2
    twice[2] = twice[2] | {"label": twice[2]["label"][:1]}
    with pytest.raises(UserError, match="row 3: other spans of task 1 than in .*row 2: export one annotation a task"):
        read(as_json(tmp_path / "d.json", twice))


def test_spans_that_label_studio_has_elsewhere(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    named = [task(1, "unused", [annotation(results(UTF16))], body=TEXT, source="web")]
    rows = read(as_json(tmp_path / "a.json", named))
    assert (
        rows[0]["text"] == TEXT
        and rows[0]["source"] == "web"
        and "the annotated text is the field 'body'" in (caplog.text)
    )
    html = result("/p[1]/text()[1]", "/p[1]/text()[1]", "PER", "Angela") | {"type": "hypertextlabels"}
    two = result(0, 1, "PER", "😀")
    two["value"]["labels"] = ["PER", "ORG"]
    with pytest.raises(UserError) as caught:
        read(as_json(tmp_path / "b.json", [task(1, TEXT, [annotation([html])]), task(2, TEXT, [annotation([two])])]))
    assert "row 1: its spans are in HTML" in caught.value.problems[0]
    assert "row 2: the span 0 to 1 has the labels ['PER', 'ORG'], expected one" in caught.value.problems[1]
    neither = [task(1, "a", [annotation([result(0, 1, "X", "c")])], body="b")]
    del neither[0]["data"]["text"]
    neither[0]["data"]["title"] = "d"
    with pytest.raises(UserError, match="which field is annotated. body, title holds|which field is annotated"):
        read(as_json(tmp_path / "c.json", neither))


def test_malformed_spans_are_listed_with_rows(tmp_path):
    rows = [{"text": "ab", "label": [[0, 1, "X"]]}, {"text": "ab", "label": [[0, 1]]}]
    rows += [{"text": "ab", "label": [["0", 1, "X"]]}, {"text": "ab", "label": [[0, 1, ""]]}, {"label": [[0, 1, "X"]]}]
    with pytest.raises(UserError) as caught:
        read(as_lines(tmp_path / "a.jsonl", rows))
    says = ["row 2: expected a list of [start,", "row 3: expected integers", "row 4: expected a label", "row 5: exp"]
    assert [say in problem for say, problem in zip(says, caught.value.problems, strict=True)] == [True] * 4
    many = [rows[0], *[rows[1]] * 12]
    with pytest.raises(UserError, match="a.jsonl: 2 more problems like these"):
        read(as_lines(tmp_path / "a.jsonl", many))
    with pytest.raises(UserError, match="row 2: expected 'entities' beside the text"):
        read(as_lines(tmp_path / "b.jsonl", [spacy()[0], ["a", {"cats": {}}]]))
    with pytest.raises(UserError, match="row 2: expected an object as before, found"):
        read(as_lines(tmp_path / "c.jsonl", [{"a": 1}, spacy()[0]]))


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a", "label": ["pos", "neg"]},
        {"text": "a", "label": "pos"},
        {"text": "a", "labels": [[0, 1, 1]]},
        {"text": "a", "spans": [{"text": "b"}]},
        {"text": "a", "label": []},
        {"id": 1, "text": "c", "data": {"text": "a"}, "annotations": [{"id": 2}]},
    ],
)
def test_other_files_stay_as_they_are(row, tmp_path, caplog):
    rows = [{**row, "text": "b"}, row]
    assert read(as_lines(tmp_path / "a.jsonl", rows))[:] == rows
    assert read(as_json(tmp_path / "a.json", rows))[:] == rows and "read as an export" not in caplog.text
