"""What trains: patterns, the last layers, biases; for every family, and the numbers that are reported."""

import re

import jax
import pytest
import transformers
from conftest import model_of
from runs import write_rows
from zoo import make

from jaxft.adapters.lora import LoRA
from jaxft.config import Config
from jaxft.config.ranges import problems_of
from jaxft.data import Data
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.params import all_names, names, shape, variables
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.training.setup import build, build_model
from jaxft.tune.bitfit import Bitfit
from jaxft.tune.full import Full
from jaxft.tune.learning_rate import peak_rate
from jaxft.tune.partial import Partial

LM = {"bert": "masked-lm", "gpt2": "causal-lm", "llama": "causal-lm"}
FAMILIES = sorted(LM)
# The names of transformers for layer i, and for what stands above the layers besides heads.
THEIRS = {"bert": r"encoder\.layer\.(\d+)\.", "gpt2": r"\.h\.(\d+)\.", "llama": r"layers\.(\d+)\."}
ABOVE = {"bert": r"bert\.pooler\.|classifier\.|cls\.", "gpt2": r"ln_f|score", "llama": r"model\.norm\.|score|lm_head"}


def laid_out(directory, kind, tune):
    """The model that would be built, and the names of what trains."""
    arch = architecture(open_pretrained(str(directory)), kind, 3)
    cfg = Config(model=str(directory), task=None, data=None, tune=tune, lr=1.0, batch=1, steps=1)
    model, _, trained = build_model(cfg, arch, "cpu")
    return model, {name for path in trained for name in names(model, path)}, trained


def sizes(model, trained):
    count = {path: int(jax.numpy.prod(jax.numpy.array(shape(v)))) for path, v in variables(model).items()}
    return sum(count[path] for path in trained), sum(count.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["sequence-classification", "lm"])
def test_last_layers(deep, family, kind):
    kind = LM[family] if kind == "lm" else kind
    model, trained, paths = laid_out(deep[family], kind, Partial(last_layers=2))
    uncut = all_names(model_of(deep[family], kind))
    above = {name for name in uncut if not name.startswith(("layers.", "embed."))}
    assert trained == {name for name in uncut if name.startswith(("layers.10.", "layers.11."))} | above
    assert sorted(all_names(model)) == sorted(uncut)
    # transformers' own count of the same parameters.
    auto = transformers.AutoModelForSequenceClassification
    if kind != "sequence-classification":
        auto = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    config = transformers.AutoConfig.from_pretrained(deep[family], num_labels=3)
    theirs = dict(auto.from_config(config).named_parameters())
    wanted = sum(p.numel() for name, p in theirs.items() if is_above(family, name, 10))
    assert sizes(model, paths) == (wanted, sum(p.numel() for p in theirs.values()))


def is_above(family, name, first):
    layer = re.search(THEIRS[family], name)
    return int(layer[1]) >= first if layer else re.search(ABOVE[family], name) is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_one_layer_is_not_its_namesakes(deep, family):
    uncut = all_names(model_of(deep[family]))
    _, trained, _ = laid_out(deep[family], LM[family], Partial(train=("layers.1",)))
    assert trained == {name for name in uncut if name.split(".")[:2] == ["layers", "1"]} and len(trained) > 5
    _, trained, _ = laid_out(deep[family], LM[family], Partial(freeze=(r"layers.\d", "embed")))
    assert {name.split(".")[1] for name in trained if name.startswith("layers.")} == {"10", "11"}


def test_patterns_that_match_nothing(deep):
    with pytest.raises(UserError) as error:
        laid_out(deep["bert"], "masked-lm", Partial(train=("layer.11", "head"), freeze=("embd",)))
    first, second = error.value.problems
    assert "tune.train" in first and "'layer.11'" in first and "layers.11" in first.split("Near names:")[1]
    assert "tune.freeze" in second and "'embd'" in second and "embed" in second.split("Near names:")[1]


def test_train_and_last_layers_add_up_and_freeze_wins(deep):
    uncut = all_names(model_of(deep["bert"]))
    tune = Partial(train=("embed.norm",), last_layers=1, freeze=(r".*\.attn", "head.bias"))
    _, trained, _ = laid_out(deep["bert"], "masked-lm", tune)
    wanted = {n for n in uncut if n.startswith(("layers.11.mlp", "layers.11.norms", "head.", "embed.norm."))}
    assert trained == wanted - {"head.bias"}


def test_more_layers_than_there_are(deep):
    with pytest.raises(UserError, match="tune.last_layers is 13, but the model has 12 layers"):
        laid_out(deep["gpt2"], "causal-lm", Partial(last_layers=13))
    _, trained, _ = laid_out(deep["gpt2"], "causal-lm", Partial(last_layers=12))
    assert {name.split(".")[0] for name in trained} == {"layers", "norm"}
    assert problems_of(Partial(last_layers=0)) and not problems_of(Partial(last_layers=1))


def test_nothing_trains(deep):
    with pytest.raises(UserError, match="selects no parameter"):
        laid_out(deep["gpt2"], "causal-lm", Partial(freeze=(".*",)))
    with pytest.raises(UserError, match="selects no parameter"):
        laid_out(deep["llama"], "causal-lm", Partial(last_layers=1, freeze=("layers", "norm", "head")))


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_and_biases(deep, family):
    model, trained, paths = laid_out(deep[family], "sequence-classification", Full())
    assert trained == set(all_names(model)) and len(set(sizes(model, paths))) == 1
    _, trained, _ = laid_out(deep[family], "sequence-classification", Bitfit())
    theirs = transformers.AutoModelForSequenceClassification.from_config(
        transformers.AutoConfig.from_pretrained(deep[family], num_labels=3)
    )
    wanted = [n for n, _ in theirs.named_parameters() if n.endswith("bias")]
    split = 2 * sum(n.endswith("c_attn.bias") for n in wanted)  # one tensor there, three here
    head = [n for n in trained if n.startswith("head.") and not n.endswith(".bias")]
    assert len(trained) - len(head) == len(wanted) + split and head
    assert all(name.endswith(".bias") or name.startswith("head.") for name in trained)


@pytest.mark.parametrize(
    "tune", [Partial(last_layers=2), Partial(train=(r"layers.(0|5)",)), Bitfit(), Partial(train=(r".*\.norms",))]
)
def test_stacked_arrays_train_whole_or_not_at_all(deep, tune):
    model, trained, paths = laid_out(deep["bert"], "masked-lm", tune)
    for path in variables(model):
        inside = {name in trained for name in names(model, path)}
        assert inside == {path in paths}


def test_last_layers_of_an_encoder_decoder(tmp_path):
    """They are the decoder's; the encoder, and what distances add to the scores of all layers, stay as they are."""
    make("t5", "seq2seq-lm", tmp_path)
    _, names, _ = laid_out(tmp_path, "seq2seq-lm", Partial(last_layers=1))
    assert {name.split(".")[0] for name in names} == {"layers", "norm"}
    assert {name.split(".")[1] for name in names if name.startswith("layers.")} == {"1"}


def test_what_is_fixed_does_not_train(tmp_path):
    """A table of sinusoids, and the bias of scores that transformers does not train either."""
    make("pegasus", "seq2seq-lm", tmp_path)
    model, _, paths = laid_out(tmp_path, "seq2seq-lm", Full())
    fixed = {"embed.positions.embedding", "encoder.embed.positions.embedding", "head.bias"}
    assert set(variables(model)) - set(paths) == fixed


def test_what_a_decoder_alone_does_not_use(tmp_path):
    """Its attention to an encoder that is not there: neither gradients nor decay change it."""
    make("bart", "causal-lm", tmp_path)
    model, _, paths = laid_out(tmp_path, "causal-lm", Full())
    left = set(variables(model)) - set(paths)
    assert left == {path for path in variables(model) if ".cross." in path} and len(left) == 8


@pytest.mark.parametrize(("tune", "rate"), [(Full(), 5e-4), (LoRA(rank=2), 5e-4 * LoRA.lr_scale)])
def test_a_learning_rate_for_the_method(tune, rate, tiny_bert, tmp_path):
    data = write_rows(tmp_path / "train.csv", 8)
    cfg = Config(
        model=str(tiny_bert), task=Classify(), data=Data(path=data), tune=tune, lr="auto", batch=8, steps=3, max_len=32
    )
    assert build(cfg).cfg.lr == pytest.approx(rate)


def test_an_own_method_without_a_learning_rate():
    with pytest.raises(UserError, match="config.lr is 'auto', but object has no lr_scale: set config.lr to a number"):
        peak_rate(object(), 10)
