"""A checkpoint into a model: names of every style, all that may be missing or too much, ties, placement on devices."""

from pathlib import Path

import jax
import large_checkpoint
import numpy as np
import pytest
import scipy
import transformers
from conftest import bert_config, gpt2_config, llama_config, model_of, variant
from safetensors.numpy import load_file

import jaxft
from jaxft.models.checkpoint import load as loading
from jaxft.models.checkpoint.load import find_weights, place
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.checkpoint.tensors import release
from jaxft.models.model import Model
from jaxft.models.params import names, shardings, variables
from jaxft.parallel.mesh import make_mesh
from jaxft.problems import UserError


def found(directory, kind=None, classes=None, init="pretrained"):
    """(views, report) of a directory's weights for the head `kind`; nothing is put on a device."""
    pretrained = open_pretrained(str(directory))
    arch = architecture(pretrained, kind, classes)
    return find_weights(Model(arch.spec, arch.head), pretrained, arch, init)


def problems(directory, *args, **more) -> list[str]:
    with pytest.raises(UserError) as caught:
        found(directory, *args, **more)
    return caught.value.problems


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
PAIRS = {f"head.pair.{part}.{kind}" for part in ("pooler.dense", "out") for kind in ("kernel", "bias")}
# What is new when the weights of a class go into a head, and what stays unused: patterns of the checkpoint's names.
BERTS = {
    ("BertModel", "none"): (set(), ()),
    ("BertModel", "sequence-classification"): (CLASSES, ()),
    ("BertModel", "multiple-choice"): (CLASSES, ()),
    ("BertModel", "masked-lm"): (TRANSFORM, ("pooler",)),
    ("BertForMaskedLM", "none"): ({"head.dense.kernel", "head.dense.bias"}, ("cls",)),
    ("BertForMaskedLM", "sequence-classification"): (POOLER | CLASSES, ("cls",)),
    ("BertForMaskedLM", "masked-lm"): (set(), ()),
    ("BertForPreTraining", "none"): (set(), ("cls",)),
    ("BertForPreTraining", "sequence-classification"): (CLASSES, ("cls",)),
    ("BertForPreTraining", "pretraining"): (set(), ()),
    ("BertForMaskedLM", "pretraining"): (PAIRS, ()),
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
        for tensor in arch.tensor_maps:
            name = tensor.hf.removeprefix(arch.prefix)
            if not tensor.jaxft[0].startswith("head.") and name in original:
                assert np.array_equal(tensor.layout.join([views[one] for one in tensor.jaxft]), original.pop(name))
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


# --- devices ---


class Watched:
    """A tensor of a checkpoint that notes which slices are taken from it."""

    def __init__(self, array):
        self.array, self.shape, self.slices = array, array.shape, []

    def __getitem__(self, index):
        self.slices.append(index)
        return self.array[index]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_each_device_reads_its_own_part(families, family):
    pretrained = open_pretrained(str(families[family]))
    arch = architecture(pretrained)
    model = Model(arch.spec, arch.head)
    views, _ = find_weights(model, pretrained, arch, "pretrained")
    watched = {name: Watched(view) for name, view in views.items()}
    placements = shardings(model, make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    params = place(model, watched, placements, dict.fromkeys(placements, np.float32), seed=0)
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


def test_the_host_holds_no_second_copy(tiny_bert, monkeypatch):
    """On one CPU device each parameter is read once, into memory that its array then keeps."""
    pretrained = open_pretrained(str(tiny_bert))
    arch = architecture(pretrained)
    model = Model(arch.spec, arch.head)
    views, _ = find_weights(model, pretrained, arch, "pretrained")
    read, aligned, released = [], loading.aligned, []
    monkeypatch.setattr(loading, "aligned", lambda *args: read.append(aligned(*args)) or read[-1])
    monkeypatch.setattr(loading, "release", released.extend)
    placements = shardings(model, make_mesh({"data": 1}, jax.devices()[:1]))
    params = place(model, views, placements, dict.fromkeys(placements, np.float32), seed=0)
    kept = sorted(value.unsafe_buffer_pointer() for value in params.values())
    assert sorted(memory.ctypes.data for memory in read) == kept
    assert {id(view) for view in views.values()} == {id(view) for view in released}


def test_read_pages_of_a_file_are_given_back(tmp_path):
    np.full(2**22, 7, np.uint8).tofile(tmp_path / "bytes")
    view = np.memmap(tmp_path / "bytes", np.uint8, "r")[100:].reshape(-1, 4).T

    def mapped():
        maps = (Path("/proc/self/smaps").read_text().split("bytes\n", 1)[1]).splitlines()
        return next(int(line.split()[1]) for line in maps if line.startswith("Rss:")) * 1024

    assert view.sum() > 0 and mapped() >= 2**22
    release([view])
    assert mapped() == 0 and view[0, 0] == 7


def test_initial_values_depend_on_seed_and_name_alone(tiny_bert):
    plain = model_of(tiny_bert, "sequence-classification")
    cut = model_of(tiny_bert, "sequence-classification", trains=lambda layer: "a" if layer == "layers.0." else "b")
    assert len(plain.layers.plan) == 1 and len(cut.layers.plan) == 2
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})

    def values(model, seed, mesh):
        made = place(model, {}, shardings(model, mesh), dict.fromkeys(variables(model), np.float32), seed)
        named = {}
        for path, value in made.items():
            if path.endswith(("bias", "scale")):
                assert np.all(np.asarray(value) == float(path.endswith("scale")))
            if not path.endswith(("q.kernel", "tokens.embedding", "out.kernel")):
                continue
            rows = np.asarray(value) if path.startswith("layers.") else np.asarray(value)[None]
            named |= dict(zip(names(model, path), rows, strict=True))
        return named

    alone = make_mesh({"data": 8})
    one = values(plain, 0, alone)
    assert len(one) == 5 and len({array.tobytes() for array in one.values()}) == 5
    for other in (values(cut, 0, alone), values(plain, 0, mesh), values(cut, 0, mesh)):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not any(np.array_equal(one[name], array) for name, array in values(plain, 1, alone).items())
    drawn = one["embed.tokens.embedding"] / plain.spec.init_std
    assert scipy.stats.kstest(drawn.ravel(), "norm").pvalue > 0.01


def test_the_large_checkpoint(tmp_path, monkeypatch):
    """That which the README's times are of, in small: five files, of which all is taken."""
    small = {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 125}
    for name, value in small.items() | {("num_attention_heads", 6), ("num_key_value_heads", 2)}:
        monkeypatch.setitem(large_checkpoint.CONFIG, name, value)
    large_checkpoint.write(tmp_path)
    _, report = found(tmp_path)
    assert not report.new and not report.unused and len(report.loaded) == 3 + 2 * 9
    assert len(list(tmp_path.glob("model-*-of-00005.safetensors"))) == 5
    _, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
