"""Every method of adapters on every kind of family: PEFT computes the same with jaxft's files, and the reverse."""

import dataclasses
import shutil

import jax
import numpy as np
import peft
import pytest
import torch
from adapted import adapted, by_peft, check, outputs_of, peft_warnings, steps, write
from adapter_methods import KINDS, METHODS, PAGE, REFUSED, page
from batches import inputs_of
from peft.optimizers import create_loraplus_optimizer
from runs import numbers, write_rows
from zoo import make

import jaxft
from jaxft.adapters.adapted import merged_params
from jaxft.adapters.dora import DoRA
from jaxft.adapters.hira import HiRA
from jaxft.adapters.ia3 import IA3
from jaxft.adapters.loha import LoHa
from jaxft.adapters.lora import LoRA
from jaxft.adapters.miss import MiSS
from jaxft.adapters.oft import OFT
from jaxft.adapters.olora import OLoRA
from jaxft.adapters.peft_files import adapter_files
from jaxft.adapters.pissa import PiSSA
from jaxft.config import Config, Mesh, Save
from jaxft.data import Data
from jaxft.metrics import objective
from jaxft.models.params import bind
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.training.fit import fit
from jaxft.training.run import train_batches
from jaxft.training.setup import build


@pytest.fixture(autouse=True)
def single(one_device):
    """Load onto one device: smaller programs, quicker to compile."""


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory):
    made = {}

    def directory(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("models") / kind.replace(" ", "-")
            make(*KINDS[kind], made[kind])
        return made[kind]

    return directory


def theirs_of(directory, kind):
    """transformers' model."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory)
    return getattr(transformers, config.architectures[0]).from_pretrained(directory, attn_implementation="eager").eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_both_ways(method, kind, directory_of, tmp_path):
    directory, tune = directory_of(kind), METHODS[method]
    arch, model, base, params, own = adapted(directory, tune)
    theirs = theirs_of(directory, kind)
    if (method, kind) in REFUSED:
        with pytest.raises(UserError, match=f"PEFT has no {tune.peft_type} adapter for .*: write --format=merged"):
            adapter_files(model, params, own, arch, tune, str(directory))
        batch = inputs_of(arch.spec, arch.kind).batch
        plain = outputs_of(base, merged_params(model, params))(batch)[1]
        logits = outputs_of(model, params)(batch)[1]
        np.testing.assert_allclose(logits, plain, rtol=0, atol=1e-5 * np.abs(plain).max())
        return
    files = adapter_files(model, params, own, arch, tune, str(directory))
    read = by_peft(theirs, write(tmp_path / "jaxft", files))
    assert sum(p.numel() for p in read.parameters() if p.requires_grad) == sum(a.size for a in files.tensors.values())
    check(read.get_base_model(), arch, outputs_of(model, params), "adapted")
    check(read.get_base_model(), arch, outputs_of(base, merged_params(model, params)), "merged")
    again = jaxft.load(str(directory), arch.kind, adapter=str(tmp_path / "jaxft"))
    check(read.get_base_model(), arch, outputs_of(again.model, again.params), "read again")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in read.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape) if parameter.requires_grad else 0.0)
    read.save_pretrained(tmp_path / "peft")
    ours = jaxft.load(str(directory), arch.kind, adapter=str(tmp_path / "peft"))
    check(read.get_base_model(), arch, outputs_of(ours.model, ours.params), "PEFT's adapter")


# PiSSA and OLoRA become LoRA in PEFT's files: their own start is compared below.
BESIDE = [name for name in METHODS if name not in ("PiSSA", "OLoRA")]


@pytest.mark.parametrize("method", BESIDE)
def test_twenty_steps_beside_peft(method, directory_of, tmp_path):
    directory = directory_of("encoder")
    arch, model, _, params, own = adapted(directory, METHODS[method])
    files = adapter_files(model, params, own, arch, METHODS[method], str(directory))
    theirs = by_peft(theirs_of(directory, "encoder"), write(tmp_path / "adapter", files))
    losses, wanted = steps(arch, model, params, own, theirs.get_base_model(), adamw(theirs, 3e-3), 3e-3)
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("tune", "init"), [(PiSSA(rank=3, alpha=3.0), "pissa"), (OLoRA(rank=3, alpha=7.0), "olora")])
def test_twenty_steps_from_a_part_of_the_weights(tune, init, directory_of):
    """PEFT starts by itself with the same part, and takes it out of the weights."""
    directory = directory_of("encoder")
    arch, model, _, params, own = adapted(directory, tune, perturbed=False)
    settings = {"r": 3, "lora_alpha": tune.alpha, "target_modules": ["query", "key", "value", "dense"]}
    config = peft.LoraConfig(**settings, init_lora_weights=init, exclude_modules=["pooler.dense"])
    with peft_warnings():
        theirs = peft.get_peft_model(theirs_of(directory, "encoder"), config).eval()
    for name, parameter in theirs.named_parameters():
        if "pooler" in name or "classifier" in name:
            parameter.requires_grad_(True)
    losses, wanted = steps(arch, model, params, own, theirs.get_base_model(), adamw(theirs, 3e-3), 3e-3)
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-4)


def test_the_ratio_of_learning_rates(directory_of, tmp_path):
    """LoRA+: beside PEFT's optimizer."""
    directory, tune = directory_of("decoder"), LoRA(rank=3, lr_ratio=16.0)
    arch, model, _, params, own = adapted(directory, tune)
    files = adapter_files(model, params, own, arch, tune, str(directory))
    theirs = by_peft(theirs_of(directory, "decoder"), write(tmp_path / "adapter", files))
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=5e-4, loraplus_lr_ratio=16.0, weight_decay=0.0)
    losses, wanted = steps(arch, model, params, own, theirs.get_base_model(), optimizer, 5e-4)
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-4)


def adamw(model, lr):
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=lr, weight_decay=0.0)


WRONG = {
    "a block without a divisor": (OFT(block_size=1), "have blocks of one then, without a rotation: use another"),
    "a short series": (OFT(block_size=4, neumann_terms=2), "tune.neumann_terms is 2: use 4 or more, or 0"),
    "a wide shard": (MiSS(rank=99), "tune.rank is 99, but bert.encoder.layer.0"),
    "a rank": (HiRA(rank=99), "is larger than its width, 24"),
    "of two matrices": (LoHa(rank=99), "is larger than its width, 24"),
    "a module": (IA3(target_modules=("querry",)), "'querry' matches no linear map of the model"),
    "saved and adapted": (
        LoRA(modules_to_save=("query",)),
        "'query' has adapters as well: leave it out, or exclude it",
    ),
    "no target": (
        IA3(target_modules=("key",), feedforward_modules=("query",)),
        "tune.feedforward_modules: 'query' is not among tune.target_modules",
    ),
    "a feed-forward module": (IA3(feedforward_modules=("wo",)), "tune.feedforward_modules: 'wo' matches no linear map"),
}


@pytest.mark.parametrize(("tune", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings(tune, message, directory_of):
    with pytest.raises(UserError) as error:
        adapted(directory_of("encoder"), tune)
    assert message in str(error.value)


def test_a_bias_that_peft_adds_later(tmp_path):
    """The queries' and values' biases of this family are no part of PEFT's module."""
    make("deberta", "sequence-classification", tmp_path / "a")
    arch, model, _, params, own = adapted(tmp_path / "a", IA3())
    with pytest.raises(
        UserError, match="PEFT has no IA3 adapter for in_proj, which are without the bias that jaxft scales with them"
    ):
        adapter_files(model, params, own, arch, IA3(), str(tmp_path / "a"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, tiny_bert):
    """A configuration of a run on two, two and two devices."""
    data = write_rows(tmp_path_factory.mktemp("sharded") / "train.csv", 8)
    mesh = Mesh(data=2, fsdp=2, tensor=2)
    return Config(
        model=str(tiny_bert), task=Classify(), data=Data(path=data), mesh=mesh, lr=1e-2, batch=8, steps=1, max_len=32
    )


def gradient_of(cfg, seed=0):
    """(the loss, the gradient of what trains) of the first batch, with random adapters."""
    built = build(cfg)
    batch = train_batches(built)[0]
    with jax.set_mesh(built.mesh):
        trained, frozen, _ = built.load()
        rng = np.random.default_rng(seed)
        for path in sorted(trained):
            noise = 0.1 * rng.standard_normal(trained[path].shape, np.float32)
            trained[path] = jax.device_put(trained[path] + noise, trained[path].sharding)

        def loss(trained, frozen, batch):
            total, count = objective(built.loss({**trained, **frozen}, batch, None))
            return total / count

        return jax.device_get(jax.jit(jax.value_and_grad(loss))(trained, frozen, built.put(batch)))


# One of each kind of layer; test_lora.py has LoRA.
LAYERS = [name for name in METHODS if name not in ("LoRA", "OLoRA", "LNTuning", "OFT, exact and shared", "LoKr, both")]


@pytest.mark.parametrize("method", LAYERS)
def test_eight_devices_are_one(method, sharded, monkeypatch):
    cfg = dataclasses.replace(sharded, tune=METHODS[method])
    loss, gradient = gradient_of(dataclasses.replace(cfg, mesh=Mesh()))
    monkeypatch.setattr(jax, "device_count", lambda *backend: 8)
    sharded_loss, sharded_gradient = gradient_of(cfg)
    np.testing.assert_allclose(sharded_loss, loss, rtol=0, atol=1e-5)
    largest = max(np.abs(values).max() for values in gradient.values())
    for path, values in gradient.items():
        np.testing.assert_allclose(sharded_gradient[path], values, rtol=0, atol=1e-5 * largest, err_msg=path)


@pytest.mark.parametrize("tune", [PiSSA(rank=2), DoRA(rank=2)], ids=lambda tune: type(tune).__name__)
def test_a_run_resumes_to_the_last_bit(tune, sharded, tmp_path):
    """What an adapter keeps of the weights is in no checkpoint."""
    cfg = dataclasses.replace(
        sharded, mesh=Mesh(), tune=tune, steps=4, batch=4, save=Save(every=2, keep=2), log_every=1
    )
    fit(cfg, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "4")
    shutil.rmtree(tmp_path / "again" / "model")
    fit(cfg, tmp_path / "again")
    assert numbers(tmp_path / "again") == numbers(tmp_path / "run")
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("again", "run")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_page_is_that_of_the_tests():
    assert PAGE.read_text() == page(), "run python tests/adapter_methods.py"


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_adapters_that_peft_starts_from_the_weights(init, directory_of, tmp_path):
    """PEFT's file has the trained factors alone; their start is taken out of the weights when it is read."""
    directory = directory_of("decoder")
    targets = ["q_proj", "down_proj"]
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, init_lora_weights=init, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    with peft_warnings(), torch.no_grad():
        theirs = peft.get_peft_model(theirs_of(directory, "decoder"), config).eval()
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape) if parameter.requires_grad else 0.0)
        theirs.save_pretrained(tmp_path / "adapter")
    ours = jaxft.load(str(directory), "causal-lm", adapter=str(tmp_path / "adapter"))
    check(theirs.get_base_model(), ours.arch, outputs_of(ours.model, ours.params), init)


def test_dropout_is_on_the_change_alone(directory_of):
    """DoRA at its start changes nothing, with dropout or without; the model's own dropout is the same in both."""

    def logits(rate, perturbed):
        arch, model, _, params, _ = adapted(directory_of("encoder"), DoRA(rank=2, dropout=rate), perturbed=perturbed)
        return np.asarray(bind(model, params)(inputs_of(arch.spec, arch.kind).batch, jax.random.key(0)).logits)

    np.testing.assert_allclose(logits(0.5, False), logits(0.0, False), rtol=0, atol=1e-5)
    assert np.abs(logits(0.5, True) - logits(0.0, True)).max() > 1e-3


def test_tables_that_the_model_uses_twice(tmp_path):
    """PEFT would train a copy for one of the places."""
    make("llama", "causal-lm", tmp_path / "a", tie_word_embeddings=True)
    tune = LoRA(rank=2, modules_to_save=("embed_tokens",))
    arch, model, _, params, own = adapted(tmp_path / "a", tune)
    with pytest.raises(UserError, match="embed_tokens.weight trains, which the model also uses as lm_head.weight"):
        adapter_files(model, params, own, arch, tune, str(tmp_path / "a"))
