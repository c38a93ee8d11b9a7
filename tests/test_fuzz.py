"""Readers fed garbage: whatever the bytes, rows or a UserError that names the file; never a traceback, never a hang."""

import contextlib
import gzip
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jaxft import strict_json
from jaxft.data import Data
from jaxft.models.pretrained import architecture, open_pretrained, tokenizer_of
from jaxft.models.tensors import open_tensors
from jaxft.problems import UserError

ROWS = [{"text": f"text {i} é", "label": i % 3, "tags": ["a", None], "more": {"x": i}} for i in range(40)]
PIECES = [b"\0", b"\xff", b'"', b"\n", b"\r", b",", b"{", b"[", b"NaN", b"1e999", b"\\ud800", b"\xef\xbb\xbf"]
# The same examples each time; FUZZ=5000 in the environment: so many new ones.
MORE = os.environ.get("FUZZ")
fuzz = settings(
    max_examples=int(MORE or 150),
    derandomize=not MORE,
    database=None,
    deadline=5000,  # milliseconds
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def edits():
    """Changes of a file: (where as a share of its length, what stands there then, how many bytes that replaces)."""
    pieces = st.sampled_from(PIECES) | st.binary(max_size=9)
    edit = st.tuples(st.floats(0, 1), pieces, st.sampled_from([0, 1, 4, 100, 10**9]))
    return st.lists(edit, min_size=1, max_size=8)


def edited(data: bytes, changes) -> bytes:
    for share, piece, count in changes:
        at = round(share * len(data))
        data = data[:at] + piece + data[at + count :]
    return data


def contents(kind: str) -> bytes:
    """A good file of a kind."""
    table, sink = pa.Table.from_pylist(ROWS), pa.BufferOutputStream()
    if kind in ("arrow", "stream"):
        make = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with make(sink, table.schema) as writer:
            writer.write_table(table)
    elif kind == "parquet":
        pa.parquet.write_table(table, sink, compression="gzip", write_page_checksum=True)
    elif kind == "json":
        return json.dumps(ROWS, indent=1).encode()
    elif kind in ("jsonl", "jsonl.gz"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
        return gzip.compress(text) if kind.endswith("gz") else text
    else:
        delimiter = {"csv": ",", "tsv": "\t", "txt": " "}[kind]
        return "".join(f'"{row["text"]}"{delimiter}{row["label"]}\r\n' for row in ROWS).encode()
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "json", "jsonl", "jsonl.gz", "parquet", "arrow", "stream"])
@fuzz
@given(changes=edits())
def test_files_of_rows(tmp_path, kind, changes):
    path = tmp_path / f"garbage.{'arrow' if kind == 'stream' else kind}"
    path.write_bytes(edited(contents(kind), changes))
    try:
        rows = Data(path=str(path)).open()
    except UserError as error:
        assert all("garbage" in problem for problem in error.problems), error
    else:
        assert len(rows[:]) == len(rows) > 0 and all(list(row) == rows.columns for row in rows)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@fuzz
@given(rows=st.lists(st.dictionaries(st.sampled_from(["text", "label", "more"]), JSON), min_size=1, max_size=5))
@example(rows=[{"text": 2**70}])
@example(rows=[{"text": "\ud800"}])
@example(rows=[{"more": {"a": None}}, {"more": {"a": [1]}}, {"more": None}])
def test_values_come_back_or_are_refused(tmp_path, rows):
    """What is read equals what was written; a value that no column can hold is refused with its row."""
    path = tmp_path / "values.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        read = Data(path=str(path)).open()[:]
    except UserError as error:
        assert "values.jsonl" in str(error)
        return
    assert len(read) == len(rows)
    for ours, theirs in zip(read, rows, strict=True):
        for key in ("text", "label", "more"):
            assert same(ours.get(key), theirs.get(key))
            assert isinstance(ours.get(key), bool) == isinstance(theirs.get(key), bool)


def same(ours, theirs) -> bool:
    """Equal, where keys that another row has may be added as None, and a number in a list may have become a float."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(same(ours.get(key), theirs.get(key)) for key in ours.keys() | theirs.keys())
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


@fuzz
@given(text=st.text() | st.binary())
@example(text="[" * 100_000)
@example(text='{"a": 1, "a": 2}')
@example(text="[NaN]")
@example(text="1" * 5000)
def test_strict_json_reads_what_the_standard_has(text):
    try:
        value = strict_json.parse(text)
    except ValueError:
        return
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.fixture(scope="module")
def broken(tmp_path_factory, tiny_bert):
    directory = tmp_path_factory.mktemp("broken") / "model"
    shutil.copytree(tiny_bert, directory)
    return directory


@contextlib.contextmanager
def changed(file, data: bytes):
    """The file with other content, for a while."""
    whole = file.read_bytes()
    file.write_bytes(data)
    try:
        yield
    finally:
        file.write_bytes(whole)


@fuzz
@given(changes=edits(), head=st.booleans())
def test_safetensors(broken, changes, head):
    file = broken / "model.safetensors"
    whole = file.read_bytes()
    # Most of a file are numbers, where any bytes are good ones: half of the time only the header is changed.
    cut = 8 + int.from_bytes(whole[:8], "little") if head else len(whole)
    data = edited(whole[:cut], changes) + whole[cut:]
    with changed(file, data):
        try:
            tensors = open_tensors(broken)
        except UserError as error:
            assert str(file) in str(error)
            return
        assert sum(array.nbytes for array in tensors.values()) <= len(data)
        assert all(array.tobytes() is not None for array in tensors.values())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@fuzz
@given(changes=edits())
def test_model_directory(broken, name, changes):
    file = broken / name
    with changed(file, edited(file.read_bytes(), changes)):
        try:
            opened = open_pretrained(str(broken))
            arch = architecture(opened)
            tokenizer_of(broken, arch.spec.embed.vocab)
        except UserError as error:
            assert str(error)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@fuzz
@given(data=st.data())
def test_settings_of_any_kind(families, tmp_path, family, data):
    """config.json with any value for any of its settings."""
    raw = json.loads((families[family] / "config.json").read_text())
    name = data.draw(st.sampled_from(sorted(raw)))
    odd = st.sampled_from([None, True, -1, 0, 1.5, 1e300, 10**12, "x", [], {}, [1], {"a": 1}])
    (tmp_path / "config.json").write_text(json.dumps(raw | {name: data.draw(odd | JSON)}))
    try:
        arch = architecture(open_pretrained(str(tmp_path)))
    except UserError as error:
        assert name.removesuffix("s") in str(error) or "refused by transformers" in str(error)
        return
    assert arch.spec.width > 0 and 0 < len(arch.spec.layers) <= 10_000
