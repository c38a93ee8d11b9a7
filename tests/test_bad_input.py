"""What users and their tools leave in model directories and data files, by name: refused with file, row and fix."""

import dataclasses
import json
import os
import pickle
import shutil
import struct
import tempfile
import time

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from conftest import TEXTS, bert_config, rows_of, save_perturbed, variant, wordpiece
from runs import command, write_rows
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.config import Config, Eval
from jaxft.data import Data
from jaxft.data.encoded import encode_all
from jaxft.data.source import as_rows
from jaxft.models.checkpoint.pretrained import open_pretrained, tokenizer_of
from jaxft.models.checkpoint.tensors import INDEX, open_tensors
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.classify import Classify, MultiLabel, Regress
from jaxft.training.fit import fit
from jaxft.training.setup import build
from jaxft.training.sources import open_sources


def message(call, *arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    return str(caught.value)


# --- weights ---

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS = {
    "a header longer than the file": (b"{}", 2**40, b"", "its header is truncated"),
    "a header of a gigabyte": (b" " * 10, 2**30, b"", "its header is truncated"),
    "a header that is no object": (b"[1, 2]", None, b"", "is damaged"),
    "a header in another alphabet": (b'{"\xff": 1}', None, b"", "is damaged"),
    "a header without an end": (b'{"a": ' + b"[" * 10_000, None, b"", "is damaged"),
    "fewer bytes than the shape needs": ({"a": F32 | {"shape": [2]}}, None, b"\0" * 4, "is damaged"),
    "a shape beyond all memory": ({"a": F32 | {"shape": [2**40, 2**40]}}, None, b"\0" * 4, "is damaged"),
    "a negative offset": ({"a": F32 | {"data_offsets": [-4, 0]}}, None, b"\0" * 4, "is damaged"),
    "two tensors in one place": ({"a": F32, "b": F32}, None, b"\0" * 4, "is damaged"),
    "a hole": ({"a": F32 | {"data_offsets": [4, 8]}}, None, b"\0" * 8, "is damaged"),
    "bytes at the end": ({"a": F32}, None, b"\0" * 9, "bytes that no tensor owns"),
    "a type of another world": ({"a": F32 | {"dtype": "F8_E8M0", "shape": [4]}}, None, b"\0" * 4, "type F8_E8M0"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_safetensors(tmp_path, case):
    header, length, data, words = HEADERS[case]
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    said = message(open_tensors, tmp_path)
    assert str(file) in said and words in said


@pytest.fixture
def shards(tiny_llama, tmp_path):
    directory = tmp_path / "shards"
    transformers.LlamaForCausalLM.from_pretrained(tiny_llama).save_pretrained(directory, max_shard_size="20KB")
    return directory


def test_shards_and_their_index_agree(shards):
    index = json.loads((shards / INDEX).read_text())
    names = sorted(set(index["weight_map"].values()))
    first = load_file(shards / names[0])
    moved = next(iter(first))
    # A tensor twice, once by mistake; a shard of an older save; a tensor that is nowhere.
    save_file(load_file(shards / names[1]) | {moved: first[moved] + 1}, shards / names[1])
    save_file({"old": np.zeros(3, np.float32)}, shards / "model-00099-of-00099.safetensors")
    index["weight_map"]["ghost.weight"] = names[2]
    (shards / INDEX).write_text(json.dumps(index))
    said = message(jaxft.load, str(shards))
    assert f"{names[1]} holds {moved}, which" in said
    assert "does not list model-00099-of-00099.safetensors" in said
    assert f"says that ghost.weight is in {names[2]}, which lacks it" in said


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "x.bin", ""]
)
def test_shards_stay_in_their_directory(shards, name):
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = name
    (shards / INDEX).write_text(json.dumps(index))
    assert f"lists {name!r}, not a safetensors file of its own directory" in message(jaxft.load, str(shards))


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}']
)
def test_an_index_of_another_kind(shards, content):
    (shards / INDEX).write_text(content)
    assert "has no weight_map" in message(jaxft.load, str(shards))


def test_what_is_no_readable_file(shards, tiny_bert, tmp_path):
    """A directory in a file's place, names that no file can have, a user without permission."""
    index = json.loads((shards / INDEX).read_text())
    whole = (shards / INDEX).read_text()
    for name in ("x" * 300 + ".safetensors", "\0.safetensors", "x" * 100_000 + ".safetensors"):
        (shards / INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | {"model.norm.weight": name}}))
        said = message(jaxft.load, str(shards))
        assert "which is not there" in said and len(said) < 1000
    (shards / INDEX).write_text(whole)
    directory = shutil.copytree(tiny_bert, tmp_path / "a")
    for name in ("model.safetensors", "config.json"):
        content = (directory / name).read_bytes()
        (directory / name).unlink()
        (directory / name).mkdir()
        assert message(jaxft.load, str(directory)) == f"{directory / name} cannot be read: Is a directory"
        (directory / name).rmdir()
        (directory / name).write_bytes(content)
    for model in ("~nobody-here/model", "x" * 100_000, "a\0b", "x/" * 5000):
        said = message(jaxft.load, model)
        assert "is not a local directory" in said and len(said) < 1000


def test_files_of_another_user(tiny_bert):
    """Who may not read them hears which."""
    with tempfile.TemporaryDirectory() as place:
        directory = shutil.copytree(tiny_bert, os.path.join(place, "a"))
        for path in (place, directory):
            os.chmod(path, 0o755)
        file = os.path.join(directory, "model.safetensors")
        os.chmod(file, 0)
        user = os.geteuid()
        if user == 0:  # who may read everything
            os.seteuid(65534)
        try:
            assert message(open_tensors, directory) == f"{file} cannot be read: Permission denied"
        finally:
            os.seteuid(user)


NO_FLOATS = {"int32": np.int32, "uint8": np.uint8, "bool": np.bool_, "float8_e4m3fn": ml_dtypes.float8_e4m3fn}


@pytest.mark.parametrize("kind", NO_FLOATS)
def test_weights_are_floats(tiny_bert, tmp_path, kind):
    """Whatever a header says of bytes that would fit: numbers of another format are no weights."""
    name = "bert.encoder.layer.1.output.dense.weight"
    stored = load_file(tiny_bert / "model.safetensors")
    odd = {name: stored[name].astype(NO_FLOATS[kind]), name.replace("1", "2"): stored[name].astype(NO_FLOATS[kind])}
    directory = variant(tiny_bert, tmp_path / "a")
    save_file(stored | odd, directory / "model.safetensors")
    said = message(jaxft.load, str(directory))
    assert said.startswith(f"the checkpoint has {kind} in {name} and 1 more tensors, where the model has floats")
    if kind == "int32":  # the same in PyTorch's and Flax's files, and where only a header lies
        (directory / "model.safetensors").unlink()
        tensors = {key: torch.from_numpy(array) for key, array in (stored | odd).items()}
        torch.save(tensors, directory / "pytorch_model.bin")
        assert message(jaxft.load, str(directory)) == said
        whole = bytearray((tiny_bert / "model.safetensors").read_bytes())
        at = whole.index(f'"{name}":{{"dtype":"F32"'.encode()) + len(name) + 13
        whole[at : at + 3] = b"I32"
        (directory / "model.safetensors").write_bytes(whole)
        assert f"int32 in {name}, where" in message(jaxft.load, str(directory))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_weights_are_finite(tiny_bert, tmp_path, value, one_device):
    """Also as float32. Numbers whose sum is too large for float32 are all right."""
    stored = load_file(tiny_bert / "model.safetensors")
    layer, table = "bert.encoder.layer.1.output.dense.weight", "bert.embeddings.word_embeddings.weight"
    wrong = {name: stored[name].astype(np.float64) for name in (layer, table)}
    for array in wrong.values():
        array[3, 2] = value
    directory = variant(tiny_bert, tmp_path / "a", **wrong)
    said = message(jaxft.load, str(directory))
    assert "NaN or infinities in layers.1.mlp.down.kernel" in said and "in embed.tokens.embedding" in said
    assert said.count("NaN or infinities") == 2
    large = variant(tiny_bert, tmp_path / "large", **{layer: np.full_like(stored[layer], 3e38)})
    jaxft.load(str(large))


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_pickled_weights_are_not_executed(tiny_bert, tmp_path):
    directory = shutil.copytree(tiny_bert, tmp_path / "pickled")
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (
        ".mkdir, which a dict of tensors does not need. If you trust the file, save the model as safetensors"
        in message(jaxft.load, str(directory))
    )
    assert not (tmp_path / "executed").exists()


def test_code_in_a_model_directory_is_not_run(tiny_bert, tmp_path):
    """transformers would ask whether to run it."""
    directory = shutil.copytree(tiny_bert, tmp_path / "code")
    marker = tmp_path / "executed"
    (directory / "own.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    for name, key in {"config.json": "AutoConfig", "tokenizer_config.json": "AutoTokenizer"}.items():
        settings = json.loads((directory / name).read_text())
        reference = "own.Thing" if key == "AutoConfig" else ["own.Thing", "own.Thing"]
        (directory / name).write_text(json.dumps(settings | {"auto_map": {key: reference}}))
    jaxft.load(str(directory)).predict(["a [MASK]"])
    assert not marker.exists()


# --- configuration and tokenizer ---

SETTINGS = {
    ("bert", "num_attention_heads"): (5, "hidden_size=24 is not a multiple of num_attention_heads=5"),
    ("bert", "hidden_dropout_prob"): (1.5, "hidden_dropout_prob=1.5, expected a number of 0 or more and less than 1"),
    ("bert", "vocab_size"): (-3, "vocab_size=-3, expected a whole number"),
    ("bert", "num_hidden_layers"): (10**9, "num_hidden_layers=1000000000, expected a whole number, 1 to 10000"),
    ("bert", "id2label"): ({"0": "a", "2": "b"}, "id2label={'0': 'a', '2': 'b'}, expected an object of names"),
    ("bert", "architectures"): ("BertModel", "architectures='BertModel', expected a list of names"),
    ("bert", "dtype"): (16, "dtype=16, expected a name"),
    ("gpt2", "n_head"): (0, "n_head=0, expected a whole number"),
    ("gpt2", "n_embd"): (25, "n_embd=25 is not a multiple of n_head=3"),
    ("gpt2", "layer_norm_epsilon"): ("1e-5", "layer_norm_epsilon"),
    ("llama", "num_key_value_heads"): (2, "num_attention_heads=3 is not a multiple of num_key_value_heads=2"),
    ("llama", "head_dim"): (7, "even rotary dimension"),
    ("llama", "rope_parameters"): ({"rope_type": "linear", "rope_theta": 1e4}, "factor"),
}


@pytest.mark.parametrize("family, setting", SETTINGS)
def test_settings(families, family, setting, tmp_path):
    value, words = SETTINGS[family, setting]
    directory = variant(families[family], tmp_path / "a", config={setting: value})
    said = message(jaxft.load, str(directory))
    assert "config.json" in said and words in said


def test_a_model_of_ten_thousand_layers(tiny_bert, tmp_path):
    """Its checkpoint has three: that is said in seconds, and not for each of 160,000 tensors."""
    directory = variant(tiny_bert, tmp_path / "a", config={"num_hidden_layers": 10_000})
    started = time.process_time()
    said = message(jaxft.load, str(directory))
    assert "159952 problems:\n- the checkpoint lacks bert.encoder.layer.10." in said and "159,902 more problems" in said
    assert len(said) < 10_000 and time.process_time() - started < 20


def test_a_configuration_that_is_no_json(tiny_bert, tmp_path):
    directory = shutil.copytree(tiny_bert, tmp_path / "a")
    for text, words in {
        "": "not valid JSON",
        "[]": "no model_type",
        "null": "no model_type",
        "[" * 100_000: "nested too deeply",
        '{"model_type": "bert", "x": ' + "[" * 100_000 + "]" * 100_000 + "}": "nested too deeply",
        '{"model_type": "bert", "model_type": "gpt2"}': "is repeated",
    }.items():
        (directory / "config.json").write_text(text)
        said = message(jaxft.load, str(directory))
        assert "config.json" in said and words in said


def test_a_tokenizer_larger_than_the_embeddings(bert_tokenizer, tmp_path, one_device):
    larger = wordpiece(vocabulary=200)
    theirs = transformers.BertForMaskedLM(bert_config(bert_tokenizer))
    save_perturbed(theirs, larger, tmp_path / "model")
    size = len(bert_tokenizer)
    data = write_rows(tmp_path / "rows.csv", 9)
    cfg = Config(
        model=str(tmp_path / "model"), task=Classify(), data=Data(path=data), lr=1e-3, batch=4, steps=1, max_len=32
    )
    for said in (message(build, cfg), message(lambda: jaxft.load(str(tmp_path / "model")).tokenizer)):
        assert f"with id {len(larger) - 1}" in said and f"embeddings end at {size - 1}" in said
        assert "name all of them in config.add_tokens" in said


def test_tokenizers_that_cannot_be_read(tiny_bert, tmp_path):
    directory = shutil.copytree(tiny_bert, tmp_path / "a")
    vocabulary = open_pretrained(str(directory)).reader.vocab_size
    whole = (directory / "tokenizer.json").read_text()
    for text in (whole[:1000], "{}", "[]", ""):
        (directory / "tokenizer.json").write_text(text)
        said = message(tokenizer_of, directory, vocabulary)
        assert f"the tokenizer in {directory} cannot be read" in said and "copy its files again" in said
    for file in directory.glob("tokenizer*"):
        file.unlink()
    assert f"{directory} has no tokenizer (tokenizer.json" in message(tokenizer_of, directory, vocabulary)


# --- rows ---


def rows_of_file(path, text) -> list[dict]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Data(path=str(path)).open()


BAD_FILES = {
    "bad.jsonl": {
        '{"text": "a"}\n{"text": NaN}\n': "bad.jsonl, line 2: not JSON (NaN is not valid JSON",
        '{"text": "a"}\n{"text": 1e400}\n': "bad.jsonl, line 2: not JSON (1e400 is not valid JSON",
        '{"text": "a", "text": "b"}\n': "bad.jsonl, line 1: not JSON (the key 'text' is repeated in one object)",
        '{"text": "a"}\n{"text": \n': "bad.jsonl, line 2: not JSON",
        '{"a\\u0000": 1}\n': "bad.jsonl: the column name 'a\\x00' holds characters that are not text",
        "[" * 100_000: "bad.jsonl, line 1: not JSON (nested too deeply)",
        b'{"text": "a"}\n{"text": "\xff"}\n': "bad.jsonl, line 2, byte 11 of the line, is not UTF-8",
        '{"text": "a"}\n'.encode("utf-16-le"): "bad.jsonl begins with NUL bytes, as UTF-16 without a byte order mark",
        '{"text": "a"}\n'.encode("utf-16")[:-1]: "bad.jsonl is not UTF-16 (truncated data): convert the file",
    },
    "bad.json": {
        '{"text": ["a", "b"]}': "bad.json: expected a list of objects",
        '[{"text": "a"},\n{"text": ]': "bad.json: not JSON",
        '[{"text": "a"}, 7]': "bad.json, row 2: expected an object, found a number",
    },
    "bad.csv": {
        "text,label\na\n": "bad.csv, row 1 (line 2): 1 cells, but the header has 2",
        'text,label\n"a\nb",1\n"c",2,3\n': "bad.csv, row 2 (line 4): 3 cells",
        'text,label\n"a"b,1\n': "bad.csv, line 2",
        b"text\nok\n\xe9t\xe9 \xc3\xa9\n": "bad.csv, line 3, byte 1 of the line, is not UTF-8",
    },
    "bad.csv.gz": {b"text\n": "bad.csv.gz cannot be read", b"\x1f\x8b\x08\0\0\0\0\0": "bad.csv.gz is incomplete"},
    "bad.parquet": {b"PAR1": "bad.parquet cannot be read", b"": "bad.parquet cannot be read"},
    "bad.arrow": {b"ARROW1\0\0": "bad.arrow cannot be read", b"x" * 99: "bad.arrow cannot be read"},
}


@pytest.mark.parametrize("name, number", [(name, i) for name, cases in BAD_FILES.items() for i in range(len(cases))])
def test_files(tmp_path, name, number):
    text, words = list(BAD_FILES[name].items())[number]
    assert words in message(rows_of_file, tmp_path / name, text)


ODD_COLUMNS = {
    '{"x": "a"}\n{"x": "\\ud83d"}\n': "bad.jsonl, row 2: column 'x' holds half of a surrogate pair",
    '{"x": 1}\n{"x": 18446744073709551616}\n': "bad.jsonl, row 2: 18446744073709551616 in column 'x'",
    '{"x": 1.5}\n{"x": true}\n': "bad.jsonl, row 2: True in column 'x' has another type",
    '{"x": {"a": null}}\n{"x": [1]}\n': "bad.jsonl, row 2: [1] in column 'x' has another type",
}


@pytest.mark.parametrize("text", ODD_COLUMNS)
def test_a_column_stops_only_a_run_that_reads_it(tiny_bert, tmp_path, text):
    rows = [json.loads(line) | {"text": "a", "label": "y"} for line in text.splitlines()]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(path=str(tmp_path / "bad.jsonl"))
    cfg = Config(model=str(tiny_bert), task=Classify(), data=data, lr=1e-3, batch=1, steps=1, max_len=32)
    assert open_sources(cfg)["train"][:] == rows
    for reads in (Classify(text="x"), Classify(label="x"), Classify(text="{label} {x}")):
        said = message(open_sources, dataclasses.replace(cfg, task=reads))
        assert said.startswith("config.data: ") and ODD_COLUMNS[text] in said


def test_good_files_that_look_odd(tmp_path):
    rows = rows_of_file(tmp_path / "a.csv", '\ufefftext,label\r"a, ""b""\n",1\r')  # BOM, quotes, old line ends
    assert rows[:] == [{"text": 'a, "b"\n', "label": "1"}]
    rows = rows_of_file(tmp_path / "b.jsonl", '{"m": {"x": null}}\n{"m": {"x": [null, {"y": 1}]}}\n{"m": null}\n{}\n')
    assert [row["m"] for row in rows] == [{"x": None}, {"x": [None, {"y": 1}]}, None, None]


# --- what is in the rows ---


@pytest.fixture
def setting(bert_tokenizer):
    return EncodingContext(bert_tokenizer, 32)


def encoded(task, rows, setting):
    source = as_rows(rows, "rows.jsonl")
    prepared = task.prepare(source, setting)
    return encode_all(source, lambda piece: prepared.encode(piece, setting), name=source.name)


TEXTLESS = ["a cat", "", None, " \t\n ", "\u200b\ufeff\0", "a dog"]


def test_rows_without_text(setting):
    """Empty, missing, or nothing left of them when the tokenizer has cleaned them: kept and counted, or left out."""
    rows = [{"text": text, "label": "yn"[i % 2]} for i, text in enumerate(TEXTLESS)]
    report = encoded(Classify(), rows, setting).report
    assert (report.kept, report.empty, report.dropped) == (6, 4, {})
    kept = encoded(Classify(drop_empty=True), rows, setting)
    assert (kept.report.empty, kept.report.dropped) == (0, {"no text": 4}) and kept.source.tolist() == [0, 5]
    said = message(encoded, Classify(drop_empty=True), rows[1:5], setting)
    assert "rows.jsonl: no example is left of 4 rows" in said and "no text (4)" in said


def test_texts_without_a_token(gpt2_tokenizer, tiny_gpt2):
    """This tokenizer adds nothing to a text: of an empty one there is nothing that a classifier could read."""
    rows = [{"text": text, "label": "yn"[i % 2]} for i, text in enumerate(["a cat", "", None, "a dog"])]
    kept = encoded(Classify(), rows, EncodingContext(gpt2_tokenizer, 32, "last"))
    assert kept.report.dropped == {"no text": 2} and (kept.flat["at"] >= 0).all()
    assert "text 2 is empty" in message(jaxft.load(str(tiny_gpt2)).predict, ["a cat", ""])


@pytest.mark.parametrize("value", [["a", "b"], {"a": 1}, float("nan"), b"bytes"])
def test_texts_that_are_no_text(setting, value):
    rows = [{"text": "a cat", "label": "y"}, {"text": value, "label": "n"}, {"text": "a dog", "label": "n"}]
    said = message(encoded, Classify(), rows, setting)
    assert said == f"rows.jsonl, row 2: column 'text' holds {value!r}, expected a text"
    rows = [{"text": "a cat", "label": "y"}, {"text": "a dog", "label": "n"}, {"text": "the log", "label": value}]
    if isinstance(value, float):  # not a number: no label
        assert encoded(Classify(), rows, setting).report.dropped == {"no label": 1}
        return
    said = message(encoded, Classify(), rows, setting)
    assert said == f"rows.jsonl, row 3: column 'label' holds {value!r}, expected a text"


SEVERAL = MultiLabel(label="label")
LABELS = {
    "not in training": (Classify(labels=("y", "n")), ["y", "maybe"], "row 2: label 'maybe' is not among"),
    "out of range": (Classify(labels=("0", "1")), [0, 2], "row 2: label '2' is not among the training labels: 0, 1"),
    "decimals": (Classify(), [0.5, 1.5], "holds decimals such as 0.5: for regression use the task Regress"),
    "none": (Classify(), [None, None], "column 'label' holds no labels"),
    "texts for numbers": (Regress(), ["1.5", "high"], "row 2: column 'label' holds 'high', expected a number"),
    "no number": (Regress(), ["1.5", "nan"], "row 2: column 'label' holds 'nan', expected a number"),
    "a list in a list": (SEVERAL, [["a"], [["b"]]], "row 2: column 'label' holds ['b'], expected a text"),
    "a number for a list": (SEVERAL, [["a"], 3], "row 2: column 'label' holds 3, expected a list of names"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels(setting, case):
    task, labels, words = LABELS[case]
    assert words in message(encoded, task, [{"text": "a cat", "label": label} for label in labels], setting)


def test_class_numbers_beyond_the_names(setting):
    source = rows_of([{"text": "a", "label": 0}, {"text": "b", "label": 7}], {"label": ["neg", "pos"]})
    assert "class number 7, but only 2 class names: neg, pos" in message(Classify().prepare, source, setting)


def test_a_label_that_training_has_not(tiny_bert, tmp_path, one_device):
    """Found before the first step, with file and row."""
    train, other = write_rows(tmp_path / "train.csv", 9), tmp_path / "val.csv"
    other.write_text("text,label\na cat,pos\na dog,unheard\n")
    evals = {"val": Eval(data=Data(path=str(other)))}
    cfg = Config(
        model=str(tiny_bert), task=Classify(), data=Data(path=train), evals=evals, lr=1e-3, batch=4, steps=1, max_len=32
    )
    said = message(fit, cfg, str(tmp_path / "run"))
    assert "val.csv, row 2: label 'unheard' is not among the training labels: neg, neu, pos" in said


@pytest.mark.parametrize("word", ["a", "the cat sat on "])
def test_texts_of_ten_megabytes(bert_tokenizer, word, tmp_path):
    """Cut off at max_len and counted, in seconds."""
    text = word * (10_000_000 // len(word))
    file = tmp_path / "long.jsonl"
    file.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in [(text, "y"), ("a cat", "n")]))
    started = time.monotonic()
    source = Data(path=str(file)).open()
    kept = encode_all(
        source, lambda rows: Classify(labels=("y", "n")).encode(rows, EncodingContext(bert_tokenizer, 32))
    )
    assert time.monotonic() - started < 60
    assert kept.lengths.max() <= 32 and kept.report.truncated == (1 if " " in word else 0)
    assert source[0]["text"] == text


def test_texts_longer_than_the_models_positions(tiny_bert, tmp_path, one_device, caplog):
    """The table has 64: more cannot be asked for, and what is longer is cut off and counted."""
    file = tmp_path / "long.csv"
    file.write_text("text,label\n" + f"{'cat ' * 100},pos\na dog,neg\n" * 4)
    cfg = Config(
        model=str(tiny_bert), task=Classify(), data=Data(path=str(file)), lr=1e-3, batch=4, steps=2, max_len=65
    )
    assert "up to 65 tokens, but the model has 64 positions" in message(fit, cfg, str(tmp_path / "run"))
    cfg = dataclasses.replace(cfg, max_len=64)
    with caplog.at_level("INFO", "jaxft"):
        fit(cfg, str(tmp_path / "run"))
    assert "4 cut off at config.max_len" in caplog.text


class Failing:
    """Somebody's own source."""

    def __init__(self, row):
        self.row = row

    def __len__(self):
        return 9

    def __getitem__(self, number):
        if number == 4:
            return self.row() if callable(self.row) else self.row
        return {"text": TEXTS[number % 5], "label": "yn"[number % 2]}


def test_a_source_that_fails_at_a_row(setting):
    """Its own error is passed on with the row; a row of another form is the user's to mend."""
    with pytest.raises(ZeroDivisionError) as caught:
        encoded(Classify(), Failing(lambda: 1 // 0), setting)
    assert caught.value.__notes__[0] == "raised by rows.jsonl when asked for row 5 of 9"
    for row in ({"text": "a"}, "a", None):
        said = message(encoded, Classify(), Failing(row), setting)
        assert f"rows.jsonl, row 5: expected a dict with the keys text, label, found {row!r}" in said


# --- the same by the commands ---


@pytest.mark.slow
def test_commands_end_with_2_and_one_message(tiny_bert, tmp_path):
    broken = shutil.copytree(tiny_bert, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-1])
    (tmp_path / "good.jsonl").write_text('{"text": "a cat", "label": "y"}\n{"text": "a dog", "label": "n"}\n')
    (tmp_path / "bad.jsonl").write_text('{"text": "a cat", "label": "y"}\n{"text": ["a"], "label": "n"}\n')
    config = (
        "from jaxft.config import Config\nfrom jaxft.data import Data\nfrom jaxft.tasks.classify import Classify\n"
        "def get_config():\n"
        "    return Config(model={!r}, task=Classify(), data=Data(path={!r}), lr=1e-3, batch=1, steps=2, max_len=32)\n"
    )
    (tmp_path / "model.py").write_text(config.format(str(broken), "good.jsonl"))
    (tmp_path / "data.py").write_text(config.format(str(tiny_bert), "bad.jsonl"))
    cases = {
        "train --config=model.py --workdir=run": ("model.safetensors is truncated", "copy it again"),
        "train --config=data.py --workdir=run": ("config.data: bad.jsonl, row 2", "'text' has another type"),
        f"predict --model={broken} --input=good.jsonl --output=out": (
            "model.safetensors is truncated",
            "copy it again",
        ),
        f"predict --model={tiny_bert} --input=bad.jsonl --output=out": (
            "bad.jsonl, row 2",
            "write all values in one way",
        ),
    }
    for line, words in cases.items():
        done = command(*line.split(), cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert all(word in done.stderr for word in words) and done.stderr.count("error:") == 1, done.stderr
        assert not (tmp_path / "out").exists()
