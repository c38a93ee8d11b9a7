"""QLoRA: adapters on a quantised base beside peft and bitsandbytes, whole runs, memory, and what is refused."""

import dataclasses
import json
import logging
import math
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
from batches import inputs_of, of_texts
from conftest import llama_config, save_perturbed, variant
from quantised import THREADS, quantised, theirs_of
from runs import command, numbers, write_rows

import jaxft
from jaxft.adapters.dora import DoRA
from jaxft.adapters.lora import LoRA
from jaxft.adapters.olora import OLoRA
from jaxft.adapters.peft_files import adapter_files
from jaxft.adapters.pissa import PiSSA
from jaxft.config import Config, Eval, Mesh, Save
from jaxft.data import Data, Pad
from jaxft.models.params import bind, is_quantized, shape, shardings, variables
from jaxft.problems import UserError
from jaxft.quantization.fp4 import FP4
from jaxft.quantization.int8 import Int8
from jaxft.quantization.nf4 import NF4
from jaxft.quantization.quantized import dequantized, quantized_kernels
from jaxft.tasks.classify import Classify
from jaxft.tasks.lm import CausalLM
from jaxft.training.compiled import compiled_steps
from jaxft.training.fit import fit
from jaxft.training.run import train_batches
from jaxft.training.saved_run import restore
from jaxft.training.setup import build
from jaxft.tune.full import Full
from jaxft.tune.partial import Partial

STEPS = 20
FORMATS = {
    "nf4": (NF4(), {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    "fp4": (FP4(double=False), {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}),
    "int8": (Int8(), {"load_in_8bit": True}),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory, llama_tokenizer):
    """Directory of a Llama whose rows are multiples of 64, as bitsandbytes on CPUs needs them."""
    config = llama_config(llama_tokenizer, layers=2, width=192, tie_word_embeddings=False)
    config.intermediate_size = 320
    model = transformers.LlamaForCausalLM(config)
    return save_perturbed(model, llama_tokenizer, tmp_path_factory.mktemp("llama"))


def adapted_by_peft(model, directory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own
        return peft.PeftModel.from_pretrained(model, directory, is_trainable=True).train()


@pytest.mark.parametrize("name", FORMATS)
def test_twenty_steps_beside_peft_and_bitsandbytes(llama, name, tmp_path, one_device):
    quantization, options = FORMATS[name]
    tune = LoRA(rank=3, alpha=7.0)
    arch, model, _, params, own = quantised(llama, tune, quantization)
    write(tmp_path / "adapter", adapter_files(model, params, own, arch, tune, str(llama)))
    torch.set_num_threads(THREADS)
    theirs = adapted_by_peft(theirs_of(llama, **options), tmp_path / "adapter")
    names = {path for path, one in variables(model).items() if one.get_metadata("origin") == "adapter"}
    trained = {path: params.pop(path) for path in names}
    inputs, tx = inputs_of(arch.spec, arch.kind), optax.adamw(3e-3, weight_decay=0.01)
    targets = np.arange(len(inputs.single)) + 7

    def loss_of(trained, params):
        logits = bind(model, {**trained, **params})(inputs.batch).logits
        picked = jnp.stack([values[-1] for values in of_texts(logits, inputs.reads, inputs.places)])
        return -jnp.mean(jax.nn.log_softmax(picked)[np.arange(len(targets)), targets])

    @jax.jit
    def step(trained, params, state):
        loss, gradient = jax.value_and_grad(loss_of)(trained, params)
        updates, state = tx.update(gradient, state, trained)
        return optax.apply_updates(trained, updates), state, loss

    optimizer = torch.optim.AdamW((p for p in theirs.parameters() if p.requires_grad), lr=3e-3, weight_decay=0.01)
    state, losses, wanted = tx.init(trained), [], []
    for _ in range(STEPS):
        trained, state, loss = step(trained, params, state)
        losses.append(float(loss))
        rows = [theirs(input_ids=torch.tensor(ids)[None].long()).logits[0, -1] for ids in inputs.single]
        loss = torch.nn.functional.cross_entropy(torch.stack(rows), torch.tensor(targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory, llama):
    """A work directory, its configuration and what the run gave."""
    folder = tmp_path_factory.mktemp("qlora")
    data = write_rows(folder / "train.csv", 40)
    cfg = Config(
        model=str(llama),
        task=Classify(labels=("neg", "neu", "pos")),
        data=Data(path=data),
        evals={"val": Eval(data=Data(path=data))},
        tune=LoRA(rank=2, dropout=0.1),
        quantization=NF4(),
        lr=1e-2,
        batch=8,
        steps=6,
        init="backbone",
        batching=Pad(buckets=(32,)),
        save=Save(every=3, keep=3),
        log_every=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda *backend: 1)
        return cfg, folder / "run", fit(cfg, folder / "run")


def test_a_run_resumes_to_the_last_bit(run, tmp_path, one_device):
    cfg, workdir, _ = run
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "6")
    shutil.rmtree(tmp_path / "again" / "model")
    fit(cfg, tmp_path / "again")
    assert numbers(tmp_path / "again") == numbers(workdir)
    weights = [path / "model" / "model.safetensors" for path in (tmp_path / "again", workdir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_model_is_written_in_floats_and_the_adapter_for_itself(run, tmp_path, caplog, one_device):
    """The written model gives the logits of the quantised one, within float32's rounding."""
    cfg, workdir, made = run
    built = build(cfg, [])
    _, state, _ = restore(built, str(workdir), 6)
    assert state.params.keys() == set(built.trained)
    _, frozen, _ = built.load()
    ids = np.arange(5, 25).reshape(2, 10)
    batch = {"tokens": ids, "segments": np.ones_like(ids), "positions": np.tile(np.arange(10), (2, 1))}
    batch["at"] = np.full((2, 1), 9)
    logits = np.asarray(built.forward({**state.params, **frozen}, batch, None).logits)[:, 0]
    np.testing.assert_allclose(made.model(input_ids=ids).logits, logits, rtol=0, atol=1e-5)
    with caplog.at_level(logging.INFO, "jaxft"):
        built.merged({**state.params, **frozen})
    assert "the base's linear maps are written in floats, with the values that NF4 gave them" in caplog.text
    done = command("export", f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "--format=adapter", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 2
    answers = jaxft.load(cfg.model, adapter=str(tmp_path / "out")).predict(["the cat"])
    assert answers[0]["label"] in ("neg", "neu", "pos")


@pytest.mark.parametrize("quantization", [NF4(block=32), Int8()], ids=["nf4", "int8"])
def test_eight_devices_are_one(run, quantization, tmp_path, monkeypatch):
    """Sharded codes and scales, recomputed layers, micro-batches: the same losses."""
    plain = dataclasses.replace(run[0], tune=LoRA(rank=2), quantization=quantization, dropout=0.0, steps=3, evals={})
    sharded = dataclasses.replace(plain, mesh=Mesh(data=2, fsdp=2, tensor=2), remat="full", micro_batches=2)
    built = build(sharded, [])
    places = shardings(built.model, built.mesh)
    assert all(any(places[path].spec) for path in places if path.endswith((".codes", ".absmax")))
    fit(sharded, tmp_path / "eight")
    monkeypatch.setattr(jax, "device_count", lambda *backend: 1)
    fit(plain, tmp_path / "one")
    one, eight = ([row["loss"] for row in numbers(tmp_path / name)] for name in ("one", "eight"))
    np.testing.assert_allclose(one, eight, rtol=0, atol=2e-5)


def test_dequantised_kernels_are_those_of_the_step(llama, one_device):
    arch, model, adapted, params, _ = quantised(llama, LoRA(rank=2), NF4())
    floats = dequantized(model, adapted, params)
    assert floats.keys() == variables(adapted).keys()
    batch = inputs_of(arch.spec, arch.kind).batch
    ours, plain = (np.asarray(bind(m, p)(batch).logits) for m, p in ((model, params), (adapted, floats)))
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def billion(directory, tokenizer):
    """Directory of a Llama of 1.0 B parameters, without weights."""
    tokenizer.save_pretrained(directory)
    transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    ).save_pretrained(directory)
    return directory


def compiled_gradient(cfg):
    """(setup, what the compiled gradient of one row of 64 tokens needs)."""
    built = build(cfg, [])
    plan, places = compiled_steps(built, 3), shardings(built.model, built.mesh)
    state, found = plan.abstract_state(), variables(built.model)
    frozen = {
        path: jax.ShapeDtypeStruct(shape(one), built.dtype_of(path), sharding=places[path])
        for path, one in found.items()
        if path not in built.trained
    }
    whole = jax.ShapeDtypeStruct((1, 64), jnp.int32, sharding=built.replicated)
    batch = dict.fromkeys(("tokens", "segments", "positions", "at", "targets"), whole)
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=built.replicated)
    batch |= dict.fromkeys(("weights", "bytes"), jax.ShapeDtypeStruct((1, 64), jnp.float32, sharding=built.replicated))
    with jax.set_mesh(built.mesh):
        program = plan.gradient.lower(state.params, state.step, frozen, batch, seed=seed).compile()
    return built, state, program.memory_analysis()


def test_memory_of_a_billion_parameters(tmp_path, llama_tokenizer, one_device):
    """Of the compiled step: the base's maps take 0.52 byte a parameter, and no dequantised copy of them is kept."""
    data = write_rows(tmp_path / "t.csv", 4)
    cfg = Config(
        model=str(billion(tmp_path / "model", llama_tokenizer)),
        init="random",
        task=CausalLM(),
        data=Data(path=data),
        tune=LoRA(rank=8),
        lr=1e-3,
        batch=1,
        steps=3,
        max_len=64,
    )
    _, _, plain = compiled_gradient(cfg)
    for quantization, most in ((NF4(), 0.52), (Int8(), 1.01)):
        built, state, found = compiled_gradient(dataclasses.replace(cfg, quantization=quantization))
        sizes = {path: math.prod(shape(one)) for path, one in variables(built.adapted).items()}
        weights = sum(sizes[path] for path, _ in quantized_kernels(built.model))
        parts = {path: one for path, one in variables(built.model).items() if is_quantized(one)}
        nbytes = sum(math.prod(shape(one)) * built.dtype_of(path).itemsize for path, one in parts.items())
        assert 9e8 < weights < 1e9 and nbytes <= most * weights
        saved = plain.argument_size_in_bytes - found.argument_size_in_bytes
        assert abs(saved - (4 * weights - nbytes)) < 1e-3 * weights  # the arguments of the program are these arrays
        assert found.temp_size_in_bytes - plain.temp_size_in_bytes < 0.03 * 4 * weights  # less than one of 16 layers
        adapter = sum(sizes[path] for path in built.trained)
        assert found.output_size_in_bytes < 4 * adapter + 1e6
        moments = sum(x.size for x in jax.tree.leaves(state.opt))
        assert all(".adapter." in path for path in built.trained) and moments < 2 * adapter + 10
        assert built.sizes() == (adapter, sum(sizes.values()) - adapter)


def test_bfloat16_has_the_values_of_float32_rounded(llama, one_device):
    """Beside bitsandbytes a test of values; here the path through a model."""
    _, model, _, params, _ = quantised(llama, LoRA(rank=2), NF4(), dtype="bfloat16")
    assert model.dtype == jnp.bfloat16
    assert {params[path].dtype.name for path, one in variables(model).items() if is_quantized(one)} == {
        "uint8",
        "float32",
    }
    assert params["embed.tokens.embedding"].dtype == jnp.bfloat16


WRONG = {
    "full": (
        {"tune": Full()},
        "config.tune trains layers.0.attn.k, layers.0.attn.o, layers.0.attn.q, ... (14 in all)",
    ),
    "partial": (
        {"tune": Partial(last_layers=1)},
        "(7 in all): train adapters on them (config.tune=LoRA), or leave",
    ),
    "scan": ({"scan": 0}, "Set config.scan=1"),
    "class": ({"quantization": LoRA()}, "expected a format such as jaxft.quantization.nf4.NF4(), or None"),
    "block": ({"quantization": NF4(block=48)}, "block"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings(run, change, message):
    with pytest.raises(UserError) as error:
        build(dataclasses.replace(run[0], **change), [])
    assert message in str(error.value) and len(error.value.problems) == 1


def test_maps_that_do_not_train_are_quantised_beside_a_head(run):
    built = build(dataclasses.replace(run[0], tune=Partial(train=("head",))), [])
    assert len(list(quantized_kernels(built.model))) > 0 and set(built.trained) == {"head.out.kernel"}


@pytest.mark.parametrize(("quantization", "number"), [(NF4(), np.nan), (Int8(), 1e6)], ids=["nan", "beyond float16"])
def test_numbers_that_have_no_codes(run, quantization, number, tmp_path):
    name = "model.layers.1.mlp.down_proj.weight"
    matrix = np.ones((192, 320), np.float32)
    matrix[3, 5] = number
    broken = variant(run[0].model, tmp_path / "broken", **{name: matrix})
    built = build(dataclasses.replace(run[0], model=str(broken), quantization=quantization), [])
    with pytest.raises(UserError) as error:
        built.load()
    assert "in layers.1.mlp.down.kernel, which cannot be quantised" in str(error.value)


@pytest.mark.parametrize("tune", [DoRA(rank=2), PiSSA(rank=2), OLoRA(rank=2)], ids=lambda tune: type(tune).__name__)
def test_methods_that_start_from_the_weights_start_from_the_quantised_ones(run, tune, one_device):
    """They change nothing at first."""

    def logits(tune):
        built = build(dataclasses.replace(run[0], tune=tune), ["train"])
        trained, frozen, _ = built.load()
        batch = built.put(train_batches(built)[0])
        with jax.set_mesh(built.mesh):
            return np.asarray(jax.jit(lambda params: built.forward(params, batch, None).logits)({**trained, **frozen}))

    wanted = logits(LoRA(rank=2))
    np.testing.assert_allclose(logits(tune), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
