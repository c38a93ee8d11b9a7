"""`parity`: equal where the numbers are PyTorch's, and the first layer that differs where they are not."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import variant
from safetensors.numpy import load_file
from zoo import MORE, SIGNALS, make

import jaxft
from jaxft.parity_check import compare as comparing
from jaxft.parity_check import inputs
from jaxft.parity_check.compare import Check, compare, read_reference
from jaxft.parity_check.inputs import make_inputs, reference_job
from jaxft.parity_check.reference import InFloat64, Job
from jaxft.parity_check.reference import reference as computed
from jaxft.problems import UserError


def run(*flags):
    command = [sys.executable, "-m", "jaxft.parity", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


def reference_of(model, texts=()) -> dict[str, np.ndarray]:
    """As `make_inputs`, in this process: starting another one takes longer than the comparison."""
    return computed(Job(**json.loads(json.dumps(reference_job(model, list(texts), 0)))))


# Endings of tensors that do not train.
FIXED = {
    ("pegasus", "seq2seq-lm"): ("embed_positions.weight", "final_logits_bias"),
    ("whisper", "seq2seq-lm"): ("encoder.embed_positions.weight",),
    ("whisper", "audio-classification"): ("encoder.embed_positions.weight",),
    ("clip", "image-classification"): ("post_layernorm.weight", "post_layernorm.bias"),
}


@pytest.mark.parametrize(
    "family, head",
    [
        ("albert", "masked-lm"),
        ("gpt_neox", "causal-lm"),
        ("llama", "question-answering"),
        ("bert", "none"),
        ("bert", "pretraining"),
        ("electra", "multiple-choice"),
        ("electra", "pretraining"),
        ("pegasus", "seq2seq-lm"),
        ("t5", "sequence-classification"),
        ("t5", "token-classification"),
        ("vit", "none"),
        ("vit", "image-classification"),
        ("clip", "none"),
        ("clip", "image-classification"),
        ("whisper", "seq2seq-lm"),
        ("whisper", "audio-classification"),
    ],
)
def test_equal(family, head, tmp_path, one_device):
    make(family, head, tmp_path)
    model = jaxft.load(str(tmp_path))
    # The small tokenizer puts no end to a text, which transformers looks for where a decoder reads it again.
    texts = [] if family == "t5" or family in SIGNALS else ["the cat sat", "a good film"]
    checks = compare(model, reference_of(model, texts))
    assert all(check.holds for check in checks), [check for check in checks if not check.holds]
    names = [check.what for check in checks]
    sides = {"the encoder's ": model.arch.spec.encoder, "": model.arch.spec}
    for whose, side in ((whose, side) for whose, side in sides.items() if side is not None):
        layers = len(side.layers)
        wanted = [f"{whose}embeddings"] + [f"hidden states after {whose}layer {i}" for i in range(layers)]
        assert names[: layers + 1] == wanted
        names = names[layers + 1 :]
    assert ("logits" in names) == (head != "none" or family == "clip") and "loss" in names
    assert ("logits of pairs" in names) == ((family, head) == ("bert", "pretraining"))
    stored = load_file(tmp_path / "model.safetensors").keys()
    trains = [name for name in stored if not name.endswith(FIXED.get((family, head), ()))]
    assert sum(name.startswith("gradient of ") for name in names) == len(trains)


def test_a_single_score_has_a_gradient(tmp_path, one_device):
    """Regression: the cross entropy of one class would be 0 whatever the model says, and so would its gradient."""
    make("bert", "sequence-classification", tmp_path, num_labels=1)
    model = jaxft.load(str(tmp_path))
    reference = reference_of(model)
    assert reference["loss"] > 0 and np.abs(reference["gradient.classifier.weight"]).max() > 0
    assert all(check.holds for check in compare(model, reference))


def test_a_result_of_another_width(tmp_path, one_device):
    """It does not stand among the layers' results; logits and gradients compare it."""
    make("opt", "causal-lm", tmp_path, word_embed_proj_dim=20, do_layer_norm_before=False)
    model = jaxft.load(str(tmp_path))
    checks = compare(model, reference_of(model, ["the cat sat"]))
    assert all(check.holds for check in checks)
    names = {check.what for check in checks}
    assert {"logits", "gradient of model.decoder.project_out.weight"} <= names
    assert sum(name.startswith("hidden states") for name in names) == len(model.arch.spec.layers) - 1


def test_texts_that_end_with_the_largest_number(tmp_path, one_device):
    """So do those of CLIP's first checkpoints, whose config.json says 2."""
    text = MORE["clip"]["text_config"] | {"eos_token_id": 2}
    make("clip", "none", tmp_path, text_config=text)
    model = jaxft.load(str(tmp_path))
    reference = reference_of(model)
    checks = compare(model, reference)
    assert all(check.holds for check in checks), [check for check in checks if not check.holds]


def test_texts_of_two_vocabularies(tmp_path, one_device):
    """The source's tokens are those of the encoder, the target's those of the decoder."""
    more = {"share_encoder_decoder_embeddings": False, "vocab_size": 30, "decoder_vocab_size": 150}
    make("marian", "seq2seq-lm", tmp_path, **more)
    job = reference_job(jaxft.load(str(tmp_path)), [], 0)
    assert max(max(text) for text in job["texts"]) < 30 < max(max(text) for text in job["decoder_texts"])


def test_texts_are_padded_on_either_side(tiny_classifier, one_device):
    texts = [{"tokens": np.arange(1, n + 1)} for n in (4, 3, 2)]
    texts = [text | {"decoder_tokens": None, "signal": None} for text in texts]
    batch, _, places = comparing.lay_out(texts, jaxft.load(str(tiny_classifier)))
    assert batch["tokens"].tolist() == [[1, 2, 3, 4], [0, 1, 2, 3], [1, 2, 0, 0]]
    assert batch["segments"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["positions"][1].tolist() == [0, 0, 1, 2] and batch["at"].tolist() == [[0], [1], [0]]
    assert places == [slice(0, 4), slice(1, 4), slice(0, 2)]


@pytest.fixture(scope="module")
def reference(tiny_classifier, tmp_path_factory):
    """(a file that PyTorch's side has left, what the command printed)"""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "texts.txt").write_text("a good film\n\nthe dog sat on the log\n")
    file = folder / "reference.npz"
    done = run(f"--model={tiny_classifier}", f"--input={folder / 'texts.txt'}", f"--write={file}")
    assert done.returncode == 0, done.stderr
    return file, done.stdout


def test_the_command(tiny_classifier, reference):
    file, printed = reference
    lines = printed.splitlines()
    assert all(line.startswith("equal ") for line in lines)
    assert [line.split("  ")[-1] for line in lines[:5]] == [
        "embeddings",
        *(f"hidden states after layer {i}" for i in range(3)),
        "logits",
    ]
    assert len(read_reference(file)["5.tokens"]) == 8  # the second given text, with its special tokens
    again = run(f"--model={tiny_classifier}", f"--reference={file}", "--json")
    result = json.loads(again.stdout)
    assert again.returncode == 0 and result["equal"] and result["first"] is None and len(result["checks"]) > 50


def test_what_float64_judges(tiny_classifier, reference, one_device):
    """Equal is what lies at most twice as far from float64 as PyTorch's own float32 does, or below a floor."""
    assert Check("x", 3e-5, 1.6e-5, 1e-5).holds and not Check("x", 3e-5, 1.4e-5, 1e-5).holds
    assert Check("x", 0.9e-5, 0.0, 1e-5).holds and not Check("x", float("nan"), 1.0, 1e-5).holds
    numbers = read_reference(reference[0])
    own = numbers["own.0.hidden"]
    assert own.shape == (4,) and 1e-9 < own[3] < 1e-5 and 0 < numbers["own.gradient.classifier.weight"] < 1e-5
    model = jaxft.load(str(tiny_classifier))
    checks = {check.what: check for check in compare(model, numbers)}
    rough = {name: 1e3 * value if name.startswith("own.") else value for name, value in numbers.items()}
    plain = {name: value for name, value in numbers.items() if not name.startswith("own.")}  # of an earlier version
    for what, check in {check.what: check for check in compare(model, rough)}.items():
        assert check.own == pytest.approx(1e3 * checks[what].own) and check.difference == checks[what].difference
        assert check.limit == max(check.tolerance, 2 * check.own)
    assert all(check.own == 0 and check.limit == check.tolerance for check in compare(model, plain))
    assert checks["hidden states after layer 2"].own > 0 and checks["loss"].own > 0


def test_the_first_layer_that_differs(tiny_classifier, reference, tmp_path):
    name = "bert.encoder.layer.1.output.dense.weight"
    changed = load_file(tiny_classifier / "model.safetensors")[name].copy()
    changed[3, 4] += 1.0
    wrong = variant(tiny_classifier, tmp_path / "wrong", **{name: changed})
    done = run(f"--model={wrong}", f"--reference={reference[0]}", "--json")
    assert done.returncode == 1 and "not equal: hidden states after layer 1" in done.stderr
    result = json.loads(done.stdout)
    held = {check["what"]: check["holds"] for check in result["checks"]}
    assert result["first"] == "hidden states after layer 1" and held["hidden states after layer 0"]
    assert not held["logits"] and not held["loss"]


def test_a_reference_of_images(tiny_classifier, reference, tmp_path, one_device):
    """From a file; and neither is one of texts taken for it, nor it for one of texts."""
    make("vit", "image-classification", tmp_path)
    images, texts = jaxft.load(str(tmp_path)), jaxft.load(str(tiny_classifier))
    np.savez(tmp_path / "kept.npz", **make_inputs(images, []))
    kept = read_reference(tmp_path / "kept.npz")
    assert all(check.holds for check in compare(images, kept))
    with pytest.raises(UserError, match="not that of a model which reads pixel_values of shape"):
        compare(images, read_reference(reference[0]) | {"head": np.array("image-classification")})
    with pytest.raises(UserError, match="not that of a model which reads texts"):
        compare(texts, kept | {"head": np.array("sequence-classification")})


def test_a_number_that_is_none(tiny_classifier, reference, tmp_path):
    """Not only where it comes first; and JSON stays JSON."""
    numbers = read_reference(reference[0])
    numbers["3.hidden"][2, 1, 1] = np.nan
    np.savez(tmp_path / "nan.npz", **numbers)
    done = run(f"--model={tiny_classifier}", f"--reference={tmp_path / 'nan.npz'}", "--json")
    result = json.loads(done.stdout, parse_constant=pytest.fail)
    assert done.returncode == 1 and result["first"] == "hidden states after layer 1"
    assert [check["difference"] for check in result["checks"] if not check["holds"]] == [None]


def test_norms_called_gamma_and_beta(tiny_bert, tmp_path, one_device):
    def former(name):
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    model = jaxft.load(str(variant(tiny_bert, tmp_path / "former", former)))
    assert all(check.holds for check in compare(model, reference_of(model)))


def test_what_is_no_reference(tiny_classifier, reference, tmp_path, monkeypatch):
    model = jaxft.load(str(tiny_classifier))
    (tmp_path / "x.npz").write_text("nothing")
    np.savez(tmp_path / "y.npz", loss=1.0)
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "half.npz").write_bytes(reference[0].read_bytes()[:5000])
    for file, message in (
        ("x.npz", "is not a reference"),
        ("y.npz", "lacks 0.tokens"),
        ("z.npz", "is not a reference"),
        ("array.npy", "is not a reference"),
        ("half.npz", "is not a reference"),
    ):
        with pytest.raises(UserError, match=message):
            read_reference(tmp_path / file)
    other = {**read_reference(reference[0]), "head": np.array("masked-lm")}
    with pytest.raises(UserError, match="with head masked-lm, not sequence-classification: give --head=masked-lm"):
        compare(model, other)
    narrow = make("bert", "sequence-classification", tmp_path / "narrow", hidden_size=12, vocab_size=90)
    assert narrow.config.hidden_size == 12
    with pytest.raises(UserError, match="2 problems:\n- the reference has token .*\n- the reference has hidden states"):
        compare(jaxft.load(str(tmp_path / "narrow")), read_reference(reference[0]))
    with pytest.raises(UserError, match="the checkpoint has no head.dense.kernel: there is nothing to compare"):
        make_inputs(jaxft.load(str(tmp_path / "narrow"), head="masked-lm"), [])
    monkeypatch.setattr(inputs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="PyTorch is not installed: pip install torch, or give --reference=FILE"):
        make_inputs(model, [])


def test_float64_is_float64_where_a_model_asks_for_float32():
    """Llama's norm casts to float32; its rounding belongs to PyTorch's float32, not to what judges it."""
    values = torch.randn(5, 8, dtype=torch.float64)
    norm = transformers.models.llama.modeling_llama.LlamaRMSNorm(8, eps=1e-6).double()
    exact = values * torch.rsqrt((values**2).mean(-1, keepdim=True) + 1e-6)
    with InFloat64():
        assert (norm(values) - exact).abs().max() < 1e-14
        assert values.float().dtype == torch.softmax(values, -1, dtype=torch.float32).dtype == torch.float64
    assert (norm(values) - exact).abs().max() > 1e-9
