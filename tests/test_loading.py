"""Checkpoints in and out: names of every style, all that may be missing or broken, number formats, shards, meshes."""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from conftest import bert_config, gpt2_config, llama_config, model_of, save_perturbed
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.models import load as loading
from jaxft.models import save as saving
from jaxft.models.load import find_weights, place
from jaxft.models.model import Model
from jaxft.models.params import initial, names, shardings, variables
from jaxft.models.pretrained import architecture, open_pretrained
from jaxft.models.reader import ConfigReader
from jaxft.models.tensors import open_tensors
from jaxft.parallel.mesh import make_mesh
from jaxft.problems import UserError

FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def found(directory, kind=None, classes=None, init="pretrained"):
    """(views, report) of a directory's weights for the head `kind`; nothing is put on a device."""
    pretrained = open_pretrained(str(directory))
    arch = architecture(pretrained, kind, classes)
    return find_weights(Model(arch.spec, arch.head), pretrained, arch, init)


def problems(directory, *args, **more) -> list[str]:
    with pytest.raises(UserError) as caught:
        found(directory, *args, **more)
    return caught.value.problems


def variant(directory, target, rename=lambda name: name, config=None, **tensors):
    """A copy of a model directory: tensors renamed (None: left out) or added, settings of config.json changed."""
    shutil.copytree(directory, target)
    file = target / "model.safetensors"
    kept = {rename(name): array for name, array in load_file(file).items()}
    kept.pop(None, None)
    save_file(kept | tensors, file, {"format": "pt"})
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(settings | (config or {})))
    return target


# --- names ---


def test_norms_may_be_named_gamma_and_beta(tiny_bert, tmp_path):
    def older(name):
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    directory = variant(tiny_bert, tmp_path / "older", older)
    stored = load_file(directory / "model.safetensors")
    views, report = found(directory)
    expected, _ = found(tiny_bert)
    assert sum("gamma" in name for name in report.loaded) == 8 and set(report.loaded) == stored.keys()
    assert not report.new and not report.unused
    assert all(np.array_equal(view, expected[name]) for name, view in views.items())
    # Nothing else is renamed: neither other names that hold these words, nor a gamma that belongs to no norm.
    decoys = ["bert.my.gamma_proj.weight", "beta_head.bias", "x.layer_scale.gamma"]
    more = {name: np.ones(2, np.float32) for name in decoys}
    directory = variant(tiny_bert, tmp_path / "decoys", older, **more)
    assert problems(directory) == [
        f"unexpected tensor {name} in the checkpoint: no parameter takes it" for name in sorted(decoys)
    ]
    dense = "bert.encoder.layer.0.output.dense."
    directory = variant(tiny_bert, tmp_path / "dense", lambda name: name.replace(dense + "weight", dense + "gamma"))
    lacks, unexpected = problems(directory)
    assert dense + "weight" in lacks and dense + "gamma" in unexpected


POOLER, CLASSES = {"head.pooler.dense.kernel", "head.pooler.dense.bias"}, {"head.out.kernel", "head.out.bias"}
TRANSFORM = {"head.dense.kernel", "head.dense.bias", "head.norm.scale", "head.norm.bias", "head.bias"}
# What is new when the weights of a class go into a head, and what stays unused: patterns of the checkpoint's names.
BERTS = {
    ("BertModel", "none"): (set(), ()),
    ("BertModel", "sequence-classification"): (CLASSES, ()),
    ("BertModel", "masked-lm"): (TRANSFORM, ("pooler",)),
    ("BertForMaskedLM", "none"): ({"head.dense.kernel", "head.dense.bias"}, ("cls",)),
    ("BertForMaskedLM", "sequence-classification"): (POOLER | CLASSES, ("cls",)),
    ("BertForMaskedLM", "masked-lm"): (set(), ()),
    ("BertForPreTraining", "none"): (set(), ("cls",)),
    ("BertForPreTraining", "sequence-classification"): (CLASSES, ("cls",)),
    ("BertForPreTraining", "masked-lm"): (set(), ("cls.seq_relationship", "bert.pooler")),
    ("BertForSequenceClassification", "none"): (set(), ("classifier",)),
    ("BertForSequenceClassification", "sequence-classification"): (set(), ()),
    ("BertForSequenceClassification", "masked-lm"): (TRANSFORM, ("bert.pooler", "classifier")),
}
DECODERS = {
    ("Model", "none"): (set(), ()),
    ("Model", "sequence-classification"): ({"head.out.kernel"}, ()),
    ("Model", "causal-lm"): (None, ()),  # the output matrix, where it is not tied
    ("LM", "none"): (set(), ("lm_head",)),
    ("LM", "sequence-classification"): ({"head.out.kernel"}, ("lm_head",)),
    ("LM", "causal-lm"): (set(), ()),
    ("ForSequenceClassification", "none"): (set(), ("score",)),
    ("ForSequenceClassification", "sequence-classification"): (set(), ()),
    ("ForSequenceClassification", "causal-lm"): (None, ("score",)),
}
LM = {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}


def styles(config, classes, base, tmp_path):
    """Class name -> directory: one backbone's weights as each class of transformers saves them."""
    made = {}
    for name in classes:
        model = getattr(transformers, name)(config)
        model.base_model.load_state_dict(base.state_dict(), strict=False)
        model.save_pretrained(tmp_path / name)
        made[name] = tmp_path / name
    return made


def check_styles(config, base, table, tied, tmp_path):
    directories = styles(config, {cls for cls, _ in table}, base, tmp_path)
    original = {name: tensor.numpy() for name, tensor in base.state_dict().items()}
    for (cls, kind), (new, unused) in table.items():
        pretrained = open_pretrained(str(directories[cls]))
        arch = architecture(pretrained, kind)
        views, report = find_weights(Model(arch.spec, arch.head), pretrained, arch, "pretrained")
        if new is None:
            new = set() if tied else {"head.table.embedding"}
        if tied:
            unused = tuple(name for name in unused if name != "lm_head")
        assert set(report.new) == new, (cls, kind)
        for entry in arch.entries:
            name = entry.theirs.removeprefix(pretrained.family.PREFIX)
            if not entry.ours[0].startswith("head.") and name in original:
                assert np.array_equal(entry.how.join([views[ours] for ours in entry.ours]), original.pop(name))
        # Whatever is left of the original is no part of this head's backbone.
        assert all(name.startswith("pooler.") for name in original)
        original = {name: tensor.numpy() for name, tensor in base.state_dict().items()}
        for prefix in unused:
            assert any(name.startswith(prefix) for name in report.unused), (cls, kind, prefix)
        assert all(name.startswith(unused) for name in report.unused), (cls, kind)
        stored = load_file(directories[cls] / "model.safetensors").keys()
        assert set(report.loaded) | set(report.unused) == stored, (cls, kind)
        assert all(name in str(report) for name in [*report.new, *report.unused])


def test_bert_backbones_of_every_class_go_into_every_head(bert_tokenizer, tmp_path):
    config = bert_config(bert_tokenizer, 2, 12)
    base = transformers.BertModel(config)
    check_styles(config, base, BERTS, True, tmp_path)


@pytest.mark.parametrize("family", LM)
@pytest.mark.parametrize("tied", [True, False])
def test_decoder_backbones_of_every_class_go_into_every_head(family, tied, gpt2_tokenizer, llama_tokenizer, tmp_path):
    config = {"GPT2": gpt2_config, "Llama": llama_config}[family]
    config = config({"GPT2": gpt2_tokenizer, "Llama": llama_tokenizer}[family], 2, 12, tie_word_embeddings=tied)
    base = getattr(transformers, f"{family}Model")(config)
    table = {(LM[family] if cls == "LM" else family + cls, kind): row for (cls, kind), row in DECODERS.items()}
    check_styles(config, base, table, tied, tmp_path)


# --- what is missing, too much, or of another shape ---

LAYER = {"bert": "bert.encoder.layer.1.", "gpt2": "transformer.h.1.", "llama": "model.layers.1."}


@pytest.mark.parametrize("family", LAYER)
def test_a_missing_layer(families, family, tmp_path):
    gone = [name for name in load_file(families[family] / "model.safetensors") if name.startswith(LAYER[family])]
    directory = variant(families[family], tmp_path / "a", lambda name: None if name in gone else name)
    for init in ("pretrained", "backbone"):
        listed = problems(directory, init=init)
        # A tensor that several parameters come from (GPT-2's query, key, value) is named for each.
        assert set(listed) == {f"the checkpoint lacks {name}" for name in gone}
    with pytest.raises(UserError, match="the checkpoint lacks"):
        jaxft.load(str(directory))


@pytest.mark.parametrize("family", LAYER)
def test_unexpected_tensors_and_other_shapes(families, family, tmp_path):
    """One message names all of it."""
    stored = load_file(families[family] / "model.safetensors")
    bias_or_scale = next(name for name in stored if name.startswith(LAYER[family]) and stored[name].ndim == 1)
    more = {bias_or_scale: np.ones(7, np.float32), LAYER[family] + "adapter.weight": np.ones((2, 2), np.float32)}
    listed = problems(variant(families[family], tmp_path / "a", **more))
    assert any(f"{bias_or_scale} has shape (7,), the model needs" in problem for problem in listed)
    assert [p for p in listed if "shape" not in p and "lacks" not in p] == [
        f"unexpected tensor {LAYER[family]}adapter.weight in the checkpoint: no parameter takes it"
    ]


def test_a_twelfth_layer_too_many(families, tmp_path):
    """config.json says two layers, the file has three."""
    for family, setting in {"bert": "num_hidden_layers", "gpt2": "n_layer", "llama": "num_hidden_layers"}.items():
        last = [n for n in load_file(families[family] / "model.safetensors") if LAYER[family].replace("1", "2") in n]
        listed = problems(variant(families[family], tmp_path / family, config={setting: 2}))
        assert len(listed) == len(last) and all(name in str(listed) for name in last)


def test_buffers_of_old_checkpoints_are_passed_over(families, tmp_path):
    buffers = {
        "bert": {"bert.embeddings.position_ids": np.arange(64)[None]},
        "gpt2": {f"transformer.h.{i}.attn.{name}": np.ones((1, 1, 4, 4), bool) for i in range(3) for name in ("bias",)}
        | {"transformer.h.0.attn.masked_bias": np.float32([-1e4])},
        "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)},
    }
    for family, more in buffers.items():
        directory = variant(families[family], tmp_path / family, **more)
        _, report = found(directory)
        assert not report.new and not report.unused


def test_a_head_of_another_size(tiny_classifier):
    listed = problems(tiny_classifier, classes=7)
    assert len(listed) == 2 and all("classifier." in p and "init='backbone'" in p for p in listed)
    assert "has shape (3,), the model needs (7,)" in str(listed)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_new_head_on_a_backbone(families, family):
    """Everything but the head is loaded; the head is drawn with the config's initializer_range, biases zero."""
    pretrained = open_pretrained(str(families[family]))
    arch = architecture(pretrained, "sequence-classification", 40)
    model = Model(arch.spec, arch.head)
    views, report = find_weights(model, pretrained, arch, "backbone")
    mesh = make_mesh({"data": 8})
    params = place(model, views, shardings(model, mesh), dict.fromkeys(variables(model), np.float32), seed=0)
    assert set(report.new) == {name for name in params if name.startswith("head.")}
    for name in report.new:
        values = np.asarray(params[name])
        assert np.isfinite(values).all()
        assert np.all(values == 0) if name.endswith(".bias") else abs(values.std() / 0.02 - 1) < 0.2
    old = found(families[family], "none")[0]
    assert all(np.array_equal(views[name], view) for name, view in old.items() if not name.startswith("head."))


def test_init_backbone_leaves_a_fitting_head_too(tiny_classifier):
    _, report = found(tiny_classifier, init="backbone")
    assert set(report.new) == POOLER | CLASSES
    unused = [f"{name}.{part}" for name in ("bert.pooler.dense", "classifier") for part in ("bias", "weight")]
    assert report.unused == unused
    views, report = found(tiny_classifier, init="random")
    assert not views and not report.loaded and "newly initialised" in str(report)


TIES = {
    "bert": ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    "gpt2": ("lm_head.weight", "transformer.wte.weight"),
    "llama": ("lm_head.weight", "model.embed_tokens.weight"),
}


@pytest.mark.parametrize("family", TIES)
def test_tied_tensors(families, family, tmp_path):
    repeat, original = TIES[family]
    stored = load_file(families[family] / "model.safetensors")[original]
    tied = {"tie_word_embeddings": True}
    twice = variant(families[family], tmp_path / "twice", config=tied, **{repeat: stored})
    views, report = found(twice)
    assert np.array_equal(views["embed.tokens.embedding"], stored) and not report.new
    # Only the copy was stored, as safetensors may do with shared memory.
    only = variant(families[family], tmp_path / "only", lambda n: repeat if n == original else n, config=tied)
    if family == "llama":  # its own file is untied: the output matrix goes
        only = variant(twice, tmp_path / "llama", lambda n: None if n == original else n)
    views, report = found(only)
    assert np.array_equal(views["embed.tokens.embedding"], stored) and not report.new
    (problem,) = problems(variant(families[family], tmp_path / "differ", config=tied, **{repeat: stored + 1}))
    assert repeat in problem and original in problem and "tie_word_embeddings" in problem


# --- files ---


def test_files_that_are_not_whole(tiny_gpt2, tmp_path):
    data = (tiny_gpt2 / "model.safetensors").read_bytes()
    directory = tmp_path / "broken"
    shutil.copytree(tiny_gpt2, directory)
    file = directory / "model.safetensors"
    cuts = {len(data) - 1: "is truncated", 100: "header is cut off", 5: "header is cut off", 0: "header is cut off"}
    for cut, words in cuts.items():
        file.write_bytes(data[:cut])
        with pytest.raises(UserError) as caught:
            open_tensors(directory)
        assert str(file) in str(caught.value) and words in str(caught.value)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 548105171\n")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        open_tensors(directory)
    file.write_bytes(data[:8] + b"\0" * (len(data) - 8))
    with pytest.raises(UserError, match="is damaged"):
        open_tensors(directory)
    file.unlink()
    with pytest.raises(UserError, match="has neither model.safetensors nor"):
        open_tensors(directory)
    (directory / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickled .bin is not read"):
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


# --- config.json ---


REFUSED = {
    ("bert", "position_embedding_type"): "relative_key",
    ("bert", "is_decoder"): True,
    ("gpt2", "scale_attn_by_inverse_layer_idx"): True,
    ("gpt2", "scale_attn_weights"): False,
    ("bert", "rotary_value"): True,
    ("gpt2", "alibi_slopes"): 8,
    ("llama", "sliding_window"): 16,
    ("llama", "embedding_multiplier"): 12.0,
    ("llama", "qk_norm"): "rms",
}


@pytest.mark.parametrize("family, setting", REFUSED, ids=".".join)
def test_settings_that_nothing_reads(families, family, setting, tmp_path):
    directory = tmp_path / "a"
    variant(families[family], directory, config={setting: REFUSED[family, setting]})
    with pytest.raises(UserError, match=f"config.json: {setting}={REFUSED[family, setting]!r}"):
        jaxft.load(str(directory))


def with_rope(directory, target, **settings):
    shutil.copytree(directory, target)
    config = json.loads((target / "config.json").read_text())
    del config["rope_parameters"]
    (target / "config.json").write_text(json.dumps(config | settings))
    return architecture(open_pretrained(str(target))).spec.layers[0].attn.rotary


@pytest.mark.parametrize("kind", ["dynamic", "yarn", "longrope"])
def test_unsupported_rotary_types(tiny_llama, kind, tmp_path):
    rope = {"rope_type": kind, "rope_theta": 500.0, "factor": 2.0, "original_max_position_embeddings": 32}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4} if kind == "longrope" else {}
    with pytest.raises(UserError, match=f"rope_type={kind!r} is not supported"):
        with_rope(tiny_llama, tmp_path / "a", rope_parameters=rope)


def test_rotary_settings_of_transformers_4(tiny_llama, tmp_path):
    """There they were `rope_theta` and `rope_scaling`, the latter with `type` or `rope_type`."""
    scaling = {"factor": 3.0}
    new = with_rope(tiny_llama, tmp_path / "a", rope_parameters={"rope_type": "linear", "rope_theta": 5e2, **scaling})
    for number, key in enumerate(("type", "rope_type")):
        old = with_rope(tiny_llama, tmp_path / str(number), rope_theta=5e2, rope_scaling={key: "linear", **scaling})
        assert old == new and old.theta == 500.0 and old.scaling.factor == 3.0
    plain = with_rope(tiny_llama, tmp_path / "b", rope_theta=500.0, rope_scaling=None)
    assert plain.theta == 500.0 and plain.scaling is None
    assert with_rope(tiny_llama, tmp_path / "c").theta == 10000.0


def test_settings_that_are_on_by_default_may_not_be_off_unread():
    with pytest.raises(UserError, match="config.json: scaled=False is not read"):
        ConfigReader({"scaled": False}, {"scaled": True}).check()
    ConfigReader({"a": False, "b": None, "c": 3, "d": True}, {"c": 3, "d": True}).check()


def test_unknown_activations(families, tmp_path):
    for family, setting in {"bert": "hidden_act", "gpt2": "activation_function", "llama": "hidden_act"}.items():
        with pytest.raises(UserError, match="the activation 'mish' is not supported, only gelu"):
            jaxft.load(str(variant(families[family], tmp_path / family, config={setting: "mish"})))


# --- devices ---


class Watched:
    """A tensor of a checkpoint that notes which slices are taken from it."""

    def __init__(self, array):
        self.array, self.shape, self.slices = array, array.shape, []

    def __getitem__(self, index):
        self.slices.append(index)
        return self.array[index]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_each_device_reads_its_own_part(families, family, monkeypatch):
    pretrained = open_pretrained(str(families[family]))
    arch = architecture(pretrained)
    model = Model(arch.spec, arch.head)
    views, _ = find_weights(model, pretrained, arch, "pretrained")
    watched = {name: Watched(view) for name, view in views.items()}
    placements = shardings(model, make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    sizes, put = [], loading._put
    monkeypatch.setattr(loading, "_put", lambda view, *rest: sizes.append(view.array.size) or put(view, *rest))
    params = place(model, watched, placements, dict.fromkeys(placements, np.float32), seed=0)
    # One tensor of one layer at a time: as many calls as the checkpoint has tensors, none larger than the largest.
    assert sorted(sizes) == sorted(view.size for view in views.values())
    for path, value in params.items():
        assert value.sharding.is_equivalent_to(placements[path], value.ndim)
        rows = value if path.startswith("layers.") else value[None]
        for row, name in zip(np.asarray(rows), names(model, path), strict=True):
            assert np.array_equal(row, views[name]), name
            spec = placements[path].spec[1:] if path.startswith("layers.") else placements[path].spec
            part = jax.sharding.NamedSharding(placements[path].mesh, jax.sharding.PartitionSpec(*spec))
            expected = set(map(str, part.addressable_devices_indices_map(row.shape).values()))
            assert set(map(str, watched[name].slices)) == expected
            taken = sum(row[index].nbytes for index in watched[name].slices)
            assert taken <= sum(shard.data.nbytes for shard in value.addressable_shards)
    # Matrices are split over fsdp and tensor: a quarter for each device.
    split = [path for path in params if path.endswith(("attn.q.kernel", "mlp.down.kernel"))]
    assert len(split) == 2
    assert all(params[path].addressable_shards[0].data.size * 4 == params[path].size for path in split)


def test_initial_values_depend_on_seed_and_name_alone(tiny_bert):
    plain = model_of(tiny_bert, "sequence-classification")
    cut = model_of(tiny_bert, "sequence-classification", trains=["a", "b", "b"])
    assert len(plain.layers.plan) == 1 and len(cut.layers.plan) == 2
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})

    def values(model, seed, placements=None):
        chosen = [path for path in variables(model) if path.endswith(("q.kernel", "tokens.embedding", "out.kernel"))]
        made = {path: initial(model, path, seed, placements and placements[path]) for path in chosen}
        named = {}
        for path, value in made.items():
            rows = np.asarray(value) if path.startswith("layers.") else np.asarray(value)[None]
            named |= dict(zip(names(model, path), rows, strict=True))
        return named

    one = values(plain, 0)
    assert len(one) == 5 and len({array.tobytes() for array in one.values()}) == 5
    for other in (values(cut, 0), values(plain, 0, shardings(plain, mesh)), values(cut, 0, shardings(cut, mesh))):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not any(np.array_equal(one[name], array) for name, array in values(plain, 1).items())
