"""LoRA: beside PEFT step by step, its settings, whole runs, and what is wrong with a configuration or a file."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import transformers
from adapted import adapted, by_peft, check, outputs_of, write
from batches import inputs_of
from runs import command, numbers, write_rows
from zoo import make

import jaxft
from jaxft.adapters.adapted import is_adapter, merged_params
from jaxft.adapters.lora import LoRA
from jaxft.adapters.peft_files import CONFIG, adapter_files
from jaxft.config import Config, Eval, Mesh, Save
from jaxft.data import Data, Pad
from jaxft.models.params import bind, names, variables
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.training.fit import fit
from jaxft.training.saved_run import restore
from jaxft.training.setup import build


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bert")
    make("bert", "sequence-classification", directory)
    return directory


def theirs_of(bert, directory):
    """PEFT's model with an adapter that is in a directory."""
    return by_peft(
        transformers.BertForSequenceClassification.from_pretrained(bert, attn_implementation="eager"), directory
    )


SETTINGS = {
    "names": LoRA(rank=2, target_modules=("query", "attention.output.dense")),
    "expression": LoRA(rank=2, target_modules=r".*layer\.[02]\..*(key|value)"),
    "exclusions": LoRA(rank=2, exclude_modules=("intermediate.dense",)),
    "layers": LoRA(rank=2, target_modules=("query",), layers_to_transform=(0, 2)),
    "patterns": LoRA(rank=2, rank_pattern={"query": 3, r"layer\.1\.output\.dense": 4}, alpha_pattern={"key": 5.0}),
    "rsLoRA": LoRA(rank=4, alpha=3.0, rslora=True),
    "all biases": LoRA(rank=2, target_modules=("query",), bias="all"),
    "targets' biases": LoRA(rank=2, target_modules=("query", "output.dense"), bias="lora_only"),
    "modules": LoRA(rank=2, target_modules=("query",), modules_to_save=("embeddings.LayerNorm",)),
}


@pytest.mark.parametrize("tune", SETTINGS.values(), ids=SETTINGS)
def test_settings_beside_peft(bert, tune, tmp_path, one_device):
    arch, model, base, params, own = adapted(bert, tune)
    files = adapter_files(model, params, own, arch, tune, str(bert))
    write(tmp_path / "adapter", files)
    theirs = theirs_of(bert, tmp_path / "adapter")
    check(theirs.get_base_model(), arch, outputs_of(model, params), "adapted")
    check(theirs.get_base_model(), arch, outputs_of(base, merged_params(model, params)), "merged")
    ours = sum(params[path].size for path, one in variables(model).items() if trains(model, path, one, own))
    assert ours == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert theirs.peft_config["default"].use_rslora == tune.rslora


def trains(model, path, variable, own):
    return is_adapter(variable) or names(model, path)[0] in own


def test_dropout_is_on_the_updates_input(bert, one_device):
    """It changes a training pass, and no evaluation."""
    tune = LoRA(rank=2, dropout=0.5)
    arch, model, _, params, _ = adapted(bert, tune)
    _, plain, _, _, _ = adapted(bert, dataclasses.replace(tune, dropout=0.0))
    batch = inputs_of(arch.spec, arch.kind).batch

    def logits(model, key):
        return np.asarray(bind(model, params)(batch, key).logits)

    assert np.array_equal(logits(model, None), logits(plain, None))
    key = jax.random.key(0)
    assert np.array_equal(logits(model, key), logits(model, key))
    assert np.abs(logits(model, key) - logits(plain, key)).max() > 1e-3


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_bert):
    """A work directory, its configuration and what the run gave."""
    folder = tmp_path_factory.mktemp("lora")
    data = write_rows(folder / "train.csv", 40)
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(),
        data=Data(path=data),
        evals={"val": Eval(data=Data(path=data))},
        tune=LoRA(rank=2, dropout=0.1),
        lr=1e-2,
        batch=8,
        steps=6,
        batching=Pad(buckets=(32,)),
        save=Save(every=3, keep=3),
        log_every=1,
    )
    return cfg, folder / "run", fit(cfg, folder / "run")


def test_a_run_resumes_to_the_last_bit(run, tmp_path):
    cfg, workdir, _ = run
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "6")
    shutil.rmtree(tmp_path / "again" / "model")
    fit(cfg, tmp_path / "again")
    assert numbers(tmp_path / "again") == numbers(workdir)
    weights = [path / "model" / "model.safetensors" for path in (tmp_path / "again", workdir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_adapter_alone_is_saved_and_merged_in_the_model(run, tmp_path):
    cfg, workdir, made = run
    built = build(cfg, ["train"])
    own = {name for path in built.trained for name in names(built.model, path) if not path.startswith("head.")}
    assert own and all(".adapter." in name for name in own)
    _, state, _ = restore(built, str(workdir), 6)
    assert state.params.keys() == set(built.trained)
    done = command(
        "export", f"--workdir={workdir}", f"--output={tmp_path / 'adapter'}", "--format=adapter", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["r"] == 2
    assert "vLLM does not load adapters with modules_to_save" in done.stderr
    ours = jaxft.load(cfg.model, adapter=str(tmp_path / "adapter"))
    ids = np.arange(5, 25).reshape(2, 10)
    logits = np.asarray(ours(input_ids=ids).logits)
    np.testing.assert_allclose(logits, made.model(input_ids=ids).logits, rtol=0, atol=1e-5)
    assert {answer["label"] for answer in ours.predict(["the cat", "a dog"])} <= {"neg", "pos", "neu"}
    texts = ["a good film", "bad actors"]
    assert [a["label"] for a in ours.predict(texts)] == [a["label"] for a in made.model.predict(texts)]


def test_eight_devices_are_one(run, tmp_path, monkeypatch):
    """Sharded weights, recomputed layers, micro-batches: the same losses."""
    plain = dataclasses.replace(run[0], tune=LoRA(rank=2), dropout=0.0)
    sharded = dataclasses.replace(plain, mesh=Mesh(data=2, fsdp=2, tensor=2), remat="full", micro_batches=2)
    fit(sharded, tmp_path / "eight")
    monkeypatch.setattr(jax, "device_count", lambda *backend: 1)
    fit(plain, tmp_path / "one")
    one, eight = ([row["loss"] for row in numbers(tmp_path / name)] for name in ("one", "eight"))
    np.testing.assert_allclose(one, eight, rtol=0, atol=2e-5)


WRONG = {
    "names": (LoRA(target_modules=("querry",)), "'querry' matches no linear map of the model. Did you mean 'query'?"),
    "expression": (LoRA(target_modules="query"), "A name is written ('query',): text is a regular expression"),
    "malformed": (LoRA(target_modules="("), "tune.target_modules: '(' is not a regular expression"),
    "rank": (LoRA(rank=99), "is larger than its width, 24"),
    "layers": (LoRA(layers_to_transform=(7,)), "names 7, but the model's layers are 0 to 2"),
    "pattern": (LoRA(rank_pattern={"querry": 2}), "tune.rank_pattern: 'querry' matches no linear map"),
    "modules": (LoRA(modules_to_save=("poler",)), "tune.modules_to_save: 'poler' is no module of the model"),
    "exclusions": (LoRA(exclude_modules=".*"), "tune leaves no linear map to adapt"),
}


@pytest.mark.parametrize(("tune", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings(bert, tune, message):
    with pytest.raises(UserError) as error:
        adapted(bert, tune)
    assert message in str(error.value)


def test_every_problem_at_once(bert):
    with pytest.raises(UserError) as error:
        adapted(bert, LoRA(target_modules=("a", "b"), modules_to_save=("c",), layers_to_transform=(9,)))
    assert len(error.value.problems) == 4


@pytest.fixture
def adapter(bert, tmp_path, one_device):
    tune = LoRA(rank=2)
    arch, model, _, params, own = adapted(bert, tune)
    return write(tmp_path / "adapter", adapter_files(model, params, own, arch, tune, str(bert)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"peft_type": "BOFT"},
            "has the peft_type 'BOFT'; jaxft reads LORA, IA3, LN_TUNING, MISS, OFT, HIRA, LOHA, LOKR. Merge the",
        ),
        ({"lora_bias": True}, "sets lora_bias to True, which jaxft does not read"),
        ({"target_parameters": ["experts.down_proj"]}, "sets target_parameters to ['experts.down_proj']"),
    ],
)
def test_adapters_that_jaxft_does_not_read(bert, adapter, change, message, tmp_path):
    file = tmp_path / "adapter" / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError) as error:
        jaxft.load(str(bert), adapter=adapter)
    assert message in str(error.value)


def test_an_adapter_of_another_model(bert, adapter, tmp_path):
    with pytest.raises(UserError, match="which does not fit the model: load it on the model that it was trained on"):
        make("bert", "sequence-classification", tmp_path / "wide", hidden_size=30)
        jaxft.load(str(tmp_path / "wide"), adapter=adapter)
    make("llama", "causal-lm", tmp_path / "llama")
    with pytest.raises(UserError, match="which the model does not have"):
        jaxft.load(str(tmp_path / "llama"), head="causal-lm", adapter=adapter)
    with pytest.raises(UserError, match="not a directory of a PEFT adapter"):
        jaxft.load(str(bert), adapter=str(bert))


def test_a_run_without_adapters_has_none_to_export(tmp_path, tiny_bert):
    data = write_rows(tmp_path / "train.csv", 8)
    cfg = Config(model=str(tiny_bert), task=Classify(), data=Data(path=data), lr=1e-3, batch=8, steps=3, max_len=32)
    fit(cfg, tmp_path / "run")
    done = command(
        "export", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'x'}", "--format=adapter", cwd=tmp_path
    )
    assert done.returncode == 2 and "--format=adapter is for adapter methods; this run tuned with Full" in done.stderr
