"""Prefix tuning: beside PEFT in logits, files and steps, whole runs, and what is wrong with a setting."""

import dataclasses
import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import pytest
import torch
import transformers
from adapted import write
from prompted import (
    batch_of,
    logits_of_peft,
    logits_of_prefix,
    logits_of_texts,
    peft_model,
    prefix_values,
    prompted,
    texts_of,
)
from runs import numbers, write_rows
from zoo import make

import jaxft
from jaxft.adapters.prefix_tuning import PrefixTuning
from jaxft.adapters.prompt_files import prompt_files
from jaxft.config import Config, Eval, Mesh, Save
from jaxft.data import Data
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.params import bind
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.training.fit import fit
from jaxft.training.setup import build

# PEFT uses transformers' former name of an argument.
pytestmark = pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
STEPS = 20
PLAIN, PROJECTED = PrefixTuning(num_virtual_tokens=4), PrefixTuning(num_virtual_tokens=4, projection=True)
# Rotary positions and grouped heads, sliding windows, ALiBi, learned positions, one key head, sinks, a decoder alone.
CAUSAL = ("llama", "gemma2", "bloom", "gpt2", "falcon", "gpt_oss", "bart")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(family, head) -> the directory of a random model."""
    made = {}

    def directory(family, head):
        if (family, head) not in made:
            made[family, head] = tmp_path_factory.mktemp(family)
            make(family, head, made[family, head])
        return made[family, head]

    return directory


def theirs_of(directory):
    """The base in PyTorch."""
    name = json.loads((directory / "config.json").read_text())["architectures"][0]
    return getattr(transformers, name).from_pretrained(directory, attn_implementation="eager").eval()


def close(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        theirs = theirs.detach().numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1.0, np.abs(theirs).max()))


def packed_logits(one, texts):
    batch, places = batch_of(one.arch, None, texts)
    logits = jax.jit(lambda params: bind(one.model, params)(batch).logits)(one.params)
    return logits_of_texts(np.asarray(logits), one.arch, places)


def padded_logits(loaded, texts):
    """Of rows that are padded on the right."""
    ids, mask = np.zeros((2, len(texts), 13), np.int32)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    logits = np.asarray(loaded(input_ids=ids, attention_mask=mask).logits)
    return [logits[row, : len(text)] if logits.ndim == 3 else logits[row][None] for row, text in enumerate(texts)]


@pytest.mark.parametrize("family", CAUSAL)
def test_files_for_peft(models, family, tmp_path, one_device):
    """Packed rows of ours, and the same texts one by one in PEFT with our files, and in jaxft with them."""
    base, tune = models(family, "causal-lm"), PROJECTED if family == "llama" else PLAIN
    one = prompted(base, tune)
    adapter = write(tmp_path / "a", prompt_files(one.model, one.params, one.own, one.arch, tune, str(base)))
    texts = texts_of(one.arch)
    with torch.no_grad():
        wanted = logits_of_peft(peft_model(theirs_of(base), adapter), texts, {})
    close(packed_logits(one, texts), wanted)
    close(padded_logits(jaxft.load(str(base), adapter=adapter), texts), wanted)


@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
@pytest.mark.parametrize("head", ["sequence-classification", "token-classification"])
def test_other_heads(models, family, head, tmp_path, one_device):
    base = models(family, head)
    one = prompted(base, PLAIN)
    adapter = write(tmp_path / "a", prompt_files(one.model, one.params, one.own, one.arch, PLAIN, str(base)))
    texts = texts_of(one.arch)
    with torch.no_grad():
        wanted = logits_of_prefix(peft_model(theirs_of(base), adapter), texts)
    close(packed_logits(one, texts), wanted)
    close(padded_logits(jaxft.load(str(base), adapter=adapter), texts), wanted)


def new_peft(base, tune):
    """A new model of PEFT with the same method, on a causal language model."""
    size = tune.encoder_hidden_size
    more = {"prefix_projection": True} | ({"encoder_hidden_size": size} if size else {}) if tune.projection else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tune.num_virtual_tokens, **more)
        return peft.get_peft_model(theirs_of(base), config).eval()


@pytest.mark.parametrize("tune", [PLAIN, PrefixTuning(num_virtual_tokens=4, projection=True, encoder_hidden_size=7)])
def test_twenty_steps_beside_peft(models, tune, tmp_path, one_device):
    """And the same number of parameters, and PEFT's own file read by jaxft."""
    base = models("llama", "causal-lm")
    theirs, one = new_peft(base, tune), prompted(base, tune, noise=0.0)
    one.params.update((path, jnp.asarray(array)) for path, array in prefix_values(theirs, one).items())
    assert sum(one.params[path].size for path in one.trained) == sum(
        p.numel() for p in theirs.parameters() if p.requires_grad
    )
    texts = texts_of(one.arch)
    theirs.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        first = logits_of_peft(theirs, texts, {})
    close(padded_logits(jaxft.load(str(base), adapter=str(tmp_path / "theirs")), texts), first)
    classes = [np.arange(len(ids)) % 5 for ids in texts]
    losses = our_losses(one, texts, classes)
    optimizer = torch.optim.AdamW((p for p in theirs.parameters() if p.requires_grad), lr=1e-2, weight_decay=0.01)
    wanted = []
    for _ in range(STEPS):
        logits = torch.cat(logits_of_peft(theirs, texts, {}))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(np.concatenate(classes)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-4)


def our_losses(one, texts, classes):
    """The losses of steps with AdamW on all that trains."""
    batch, places = batch_of(one.arch, None, texts)
    trained = {path: one.params[path] for path in one.trained}
    tx = optax.adamw(1e-2, weight_decay=0.01)

    def loss_of(trained):
        logits = bind(one.model, {**one.params, **trained})(batch).logits
        logs = jax.nn.log_softmax(jnp.concatenate(logits_of_texts(logits, one.arch, places)))
        return -jnp.mean(logs[np.arange(len(logs)), np.concatenate(classes)])

    @jax.jit
    def step(trained, state):
        loss, gradient = jax.value_and_grad(loss_of)(trained)
        updates, state = tx.update(gradient, state, trained)
        return optax.apply_updates(trained, updates), state, loss

    state, losses = tx.init(trained), []
    for _ in range(STEPS):
        trained, state, loss = step(trained, state)
        losses.append(float(loss))
    return losses


def configuration(model, data, tune, **more):
    settings = {"lr": 1e-2, "batch": 8, "steps": 6, "max_len": 24, "save": Save(every=3, keep=3), "log_every": 1}
    settings |= {"task": Classify(), "evals": {"val": Eval(data=Data(path=data))}} | more
    return Config(model=str(model), data=Data(path=data), tune=tune, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_bert):
    """A work directory, its configuration and what the run gave."""
    folder = tmp_path_factory.mktemp("prefix")
    data = write_rows(folder / "train.csv", 40)
    cfg = configuration(tiny_bert, data, PrefixTuning(num_virtual_tokens=3, projection=True))
    return cfg, folder / "run", fit(cfg, folder / "run")


def test_a_run_resumes_to_the_last_bit(run, tmp_path):
    cfg, workdir, made = run
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "6")
    shutil.rmtree(tmp_path / "again" / "model")
    fit(cfg, tmp_path / "again")
    assert numbers(tmp_path / "again") == numbers(workdir)
    weights = [path / "model" / "adapter_model.safetensors" for path in (tmp_path / "again", workdir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    found = jaxft.load(cfg.model, adapter=str(workdir / "model"))
    ids = np.arange(5, 25).reshape(2, 10)
    assert np.array_equal(found(input_ids=ids).logits, made.model(input_ids=ids).logits)


def test_eight_devices_are_one(run, tmp_path, monkeypatch):
    """Sharded weights, recomputed layers, micro-batches: the same losses."""
    plain = dataclasses.replace(run[0], dropout=0.0)
    sharded = dataclasses.replace(plain, mesh=Mesh(data=2, fsdp=2, tensor=2), remat="full", micro_batches=2)
    fit(sharded, tmp_path / "eight")
    monkeypatch.setattr(jax, "device_count", lambda *backend: 1)
    fit(plain, tmp_path / "one")
    one, eight = ([row["loss"] for row in numbers(tmp_path / name)] for name in ("one", "eight"))
    np.testing.assert_allclose(one, eight, rtol=0, atol=2e-5)


REFUSED = {
    ("t5", "seq2seq-lm"): "of models without a separate encoder",
    ("distilbert", "sequence-classification"): "transformers gives its layers no keys and values from outside",
    ("deberta", "sequence-classification"): "PrefixTuning is not for this model",
}


@pytest.mark.parametrize(("family", "head"), REFUSED, ids=["-".join(one) for one in REFUSED])
def test_models_without_a_prefix(models, family, head):
    pretrained = open_pretrained(str(models(family, head)))
    assert REFUSED[family, head] in " ".join(PLAIN.refusals(architecture(pretrained), pretrained))


def test_wrong_settings(models, tmp_path):
    data = write_rows(tmp_path / "train.csv", 8)
    base = models("bert", "sequence-classification")
    with pytest.raises(UserError, match="encoder_hidden_size is of the MLP of projection=True"):
        build(configuration(base, data, PrefixTuning(encoder_hidden_size=3)))
    with pytest.raises(UserError, match="so that a text has at most 44"):
        build(configuration(base, data, PrefixTuning(), max_len=60, init="backbone"))


def test_an_adapter_of_another_model(models, tmp_path, one_device):
    base = models("llama", "causal-lm")
    one = prompted(base, PLAIN)
    adapter = write(tmp_path / "a", prompt_files(one.model, one.params, one.own, one.arch, PLAIN, str(base)))
    make("llama", "causal-lm", tmp_path / "deep", num_hidden_layers=4)
    with pytest.raises(UserError, match="does not fit the model: load it on the model that it was trained on"):
        jaxft.load(str(tmp_path / "deep"), adapter=adapter)
