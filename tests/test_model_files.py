"""Model directories on disk: whole and broken files, shards, number formats, and what is never overwritten."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from conftest import bert_config, save_perturbed
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.models.checkpoint import save as saving
from jaxft.models.checkpoint.tensors import open_tensors
from jaxft.problems import UserError

FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


# --- whole, broken, in shards ---


def test_files_that_are_not_whole(tiny_gpt2, tmp_path):
    data = (tiny_gpt2 / "model.safetensors").read_bytes()
    directory = tmp_path / "broken"
    shutil.copytree(tiny_gpt2, directory)
    file = directory / "model.safetensors"
    cuts = {
        len(data) - 1: "is truncated",
        100: "header is truncated",
        5: "header is truncated",
        0: "header is truncated",
    }
    for cut, words in cuts.items():
        file.write_bytes(data[:cut])
        with pytest.raises(UserError) as caught:
            open_tensors(directory)
        assert str(file) in str(caught.value) and words in str(caught.value)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 548105171\n")
    with pytest.raises(UserError, match="not a complete safetensors file"):
        open_tensors(directory)
    file.write_bytes(data[:8] + b"\0" * (len(data) - 8))
    with pytest.raises(UserError, match="is damaged"):
        open_tensors(directory)
    file.unlink()
    with pytest.raises(UserError, match="has no weights: none of model.safetensors"):
        open_tensors(directory)
    (directory / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pytorch_model.bin is damaged"):
        open_tensors(directory)


def test_missing_and_truncated_shards(tiny_llama, tmp_path):
    directory = tmp_path / "shards"
    transformers.LlamaForCausalLM.from_pretrained(tiny_llama).save_pretrained(directory, max_shard_size="20KB")
    shards = sorted(directory.glob("model-*.safetensors"))
    assert len(shards) > 3
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-10])
    with pytest.raises(UserError, match=f"{shards[1].name} is truncated"):
        jaxft.load(str(directory))
    shards[1].unlink()
    shards[2].unlink()
    with pytest.raises(UserError) as caught:
        jaxft.load(str(directory))
    assert len(caught.value.problems) == 2 and all(shard.name in str(caught.value) for shard in shards[1:3])
    index = directory / "model.safetensors.index.json"
    index.write_text(index.read_text()[:100])
    with pytest.raises(UserError, match="model.safetensors.index.json is damaged"):
        jaxft.load(str(directory))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_shards_in_both_directions(families, family, tmp_path, monkeypatch):
    auto = {"bert": "MaskedLM", "gpt2": "CausalLM", "llama": "CausalLM"}
    cls = getattr(transformers, f"AutoModelFor{auto[family]}")
    whole = load_file(families[family] / "model.safetensors")
    cls.from_pretrained(families[family]).save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    monkeypatch.setattr(saving, "FILE_BYTES", 30_000)
    jaxft.load(str(tmp_path / "theirs")).save(tmp_path / "ours")
    files = sorted((tmp_path / "ours").glob("*.safetensors"))
    numbers = range(1, len(files) + 1)
    assert [file.name for file in files] == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in numbers]
    assert len(files) > 2 and not list((tmp_path / "ours").glob("part-*"))
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    for file in files:
        stored = load_file(file)
        assert all(index["weight_map"][name] == file.name for name in stored)
        assert sum(array.nbytes for array in stored.values()) <= 30_000
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in whole.values())
    ours = open_tensors(tmp_path / "ours")
    assert ours.keys() == whole.keys() == index["weight_map"].keys()
    assert all(ours[name].tobytes() == array.tobytes() for name, array in whole.items())
    model, info = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = cls.from_pretrained(families[family]).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


# --- number formats ---


@pytest.mark.parametrize("base", FLOATS)
def test_number_formats(base, bert_tokenizer, tmp_path):
    """Parameters are float32 whatever the file has; a file has what was asked for, and config.json says so."""
    theirs = transformers.BertForMaskedLM(bert_config(bert_tokenizer, 2, 12))
    save_perturbed(theirs.to(getattr(torch, base)), bert_tokenizer, tmp_path / "base")
    original = load_file(tmp_path / "base" / "model.safetensors")
    ours = jaxft.load(str(tmp_path / "base"))
    assert all(value.dtype == np.float32 for value in ours.params.values())
    for asked in ("auto", *FLOATS):
        ours.save(tmp_path / asked, dtype=asked)
        dtype = FLOATS[base if asked == "auto" else asked]
        saved = load_file(tmp_path / asked / "model.safetensors")
        assert saved.keys() == original.keys() and {array.dtype for array in saved.values()} == {np.dtype(dtype)}
        for name, array in original.items():
            assert saved[name].tobytes() == array.astype(np.float32).astype(dtype).tobytes(), name
        config = json.loads((tmp_path / asked / "config.json").read_text())
        assert config["dtype"] == np.dtype(dtype).name
        sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("base", asked)]
        assert abs(sizes[1] / sizes[0] * FLOAT_BYTES[base] / np.dtype(dtype).itemsize - 1) < 0.25
        again, info = transformers.BertForMaskedLM.from_pretrained(tmp_path / asked, output_loading_info=True)
        assert again.dtype == getattr(torch, np.dtype(dtype).name)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("asked", ["auto", "float16"])
def test_no_finite_weight_becomes_infinite(asked, bert_tokenizer, tmp_path, caplog):
    """Of a float16 base whose weights have grown: all are float32 then, and config.json and the log say so."""
    theirs = transformers.BertForMaskedLM(bert_config(bert_tokenizer, 2, 12))
    save_perturbed(theirs.to(torch.float16), bert_tokenizer, tmp_path / "base")
    ours = jaxft.load(str(tmp_path / "base"))
    path = next(path for path in ours.params if path.endswith("attn.q.kernel"))
    ours.params[path] = ours.params[path].at[1, 2, 3].set(65_600.0)
    ours.save(tmp_path / "written", dtype=asked)
    saved = load_file(tmp_path / "written" / "model.safetensors")
    assert {array.dtype for array in saved.values()} == {np.dtype(np.float32)}
    assert saved["bert.encoder.layer.1.attention.self.query.weight"][3, 2] == 65_600.0
    assert json.loads((tmp_path / "written" / "config.json").read_text())["dtype"] == "float32"
    assert (
        "written in float32: float16 cannot represent numbers as large as those in bert.encoder.layer.1.att"
        in caplog.text
    )


FLOAT_BYTES = {name: np.dtype(dtype).itemsize for name, dtype in FLOATS.items()}


def test_mixed_formats_and_the_older_name_of_the_setting(tiny_gpt2, tmp_path):
    """Norms in float32 beside half-precision matrices; `torch_dtype` is what transformers 4 wrote."""
    directory = tmp_path / "mixed"
    shutil.copytree(tiny_gpt2, directory)
    stored = load_file(directory / "model.safetensors")
    mixed = {name: array if "ln_" in name else array.astype(ml_dtypes.bfloat16) for name, array in stored.items()}
    save_file(mixed, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    (directory / "config.json").write_text(json.dumps(config))
    ours = jaxft.load(str(directory))
    ours.save(tmp_path / "auto")
    again = load_file(tmp_path / "auto" / "model.safetensors")
    assert again.keys() == mixed.keys()
    assert all(again[n].dtype == array.dtype and again[n].tobytes() == array.tobytes() for n, array in mixed.items())
    ours.save(tmp_path / "half", dtype="float16")
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["torch_dtype"] == "float16" and "dtype" not in config
    # A head that the checkpoint lacks takes the format that most of its tensors have.
    jaxft.load(str(directory), head="sequence-classification").save(tmp_path / "head")
    score = load_file(tmp_path / "head" / "model.safetensors")["score.weight"]
    assert score.dtype == ml_dtypes.bfloat16 and score.shape == (2, 24)


# --- where a model is written ---


def test_nothing_but_a_model_is_replaced(tiny_bert, tmp_path, one_device):
    """A run's work directory has a config.json, too."""
    ours = jaxft.load(str(tiny_bert))
    for name in ("run", "home"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    for name, words in {"run": "holds checkpoints", "home": "holds checkpoints", "file": "is a file"}.items():
        with pytest.raises(UserError, match=words):
            ours.save(tmp_path / name)
    assert {path.name for path in tmp_path.rglob("*")} == {"run", "home", "checkpoints", "config.json", "file", "empty"}
    ours.save(tmp_path / "empty")
    ours.save(tmp_path / "empty")
    assert {file.name for file in (tmp_path / "empty").iterdir()} == {file.name for file in tiny_bert.iterdir()}
