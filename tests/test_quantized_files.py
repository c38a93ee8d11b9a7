"""Checkpoints whose linear maps bitsandbytes quantised: loaded as floats, or kept as they are."""

import json
import warnings

import numpy as np
import pytest
import torch
import transformers
from conftest import gpt2_config, llama_config, save_perturbed, variant
from quantised import quantised, theirs_of
from runs import write_rows
from safetensors.numpy import load_file

import jaxft
from jaxft.adapters.lora import LoRA
from jaxft.config import Config
from jaxft.data import Data
from jaxft.models.params import names, variables
from jaxft.problems import UserError
from jaxft.quantization.fp4 import FP4
from jaxft.quantization.int8 import Int8
from jaxft.quantization.nf4 import NF4
from jaxft.quantization.quantized import dequantized
from jaxft.tasks.lm import CausalLM
from jaxft.training.fit import fit
from jaxft.tune.partial import Partial

FORMATS = {
    "nf4": (NF4(), {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    "fp4": (FP4(double=False), {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}),
    "int8": (Int8(), {"load_in_8bit": True}),
}
DOWN = "model.layers.1.mlp.down_proj.weight"
IDS = np.arange(5, 25).reshape(2, 10)


@pytest.fixture(scope="module")
def directories(tmp_path_factory, llama_tokenizer):
    """Format -> directory of a Llama in it, as transformers writes it; "plain": in floats."""
    folder = tmp_path_factory.mktemp("stored")
    config = llama_config(llama_tokenizer, layers=2, width=192, tie_word_embeddings=False)
    config.intermediate_size = 320
    made = {"plain": save_perturbed(transformers.LlamaForCausalLM(config), llama_tokenizer, folder / "plain")}
    for name, (_, options) in FORMATS.items():
        made[name] = folder / name
        theirs_of(made["plain"], **options).save_pretrained(made[name])
        llama_tokenizer.save_pretrained(made[name])
    return made


@pytest.mark.parametrize("name", FORMATS)
def test_loaded_as_floats(directories, name, tmp_path, one_device):
    """The logits of transformers on bitsandbytes' maps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bitsandbytes' own
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            directories[name], device_map="cpu", attn_implementation="eager"
        ).train()  # for inference bitsandbytes would compute in bfloat16
        wanted = theirs(input_ids=torch.tensor(IDS)).logits.detach().numpy()
    ours = jaxft.load(str(directories[name]))
    logits = np.asarray(ours(input_ids=IDS).logits)
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", FORMATS)
def test_kept_as_they_are(directories, name, one_device):
    """Every code and scale is the file's; and the file's are ours of the weights in floats."""
    quantization, _ = FORMATS[name]
    _, model, _, params, _ = quantised(directories[name], LoRA(rank=2), quantization)
    _, _, _, ours, _ = quantised(directories["plain"], LoRA(rank=2), quantization)
    stored = load_file(directories[name] / "model.safetensors")
    path = next(path for path in variables(model) if path.endswith("mlp.down.kernel.codes"))
    row = names(model, path).index("layers.1.mlp.down.kernel.codes")
    np.testing.assert_array_equal(np.ravel(params[path][row]), np.ravel(stored[DOWN]))
    for path in params:
        np.testing.assert_array_equal(params[path], ours[path], err_msg=path)


def test_a_run_writes_floats(directories, tmp_path, one_device):
    data = write_rows(tmp_path / "train.csv", 8)
    cfg = Config(
        model=str(directories["nf4"]),
        task=CausalLM(),
        data=Data(path=data),
        tune=LoRA(rank=2),
        quantization=NF4(),
        lr=1e-2,
        batch=8,
        steps=3,
        max_len=32,
    )
    made = fit(cfg, tmp_path / "run")
    assert "quantization_config" not in json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    tensors = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {array.dtype.name for array in tensors.values()} == {"float32"}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    wanted = theirs(input_ids=torch.tensor(IDS)).logits.detach().numpy()
    np.testing.assert_allclose(made.model(input_ids=IDS).logits, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_another_format_is_made_of_the_dequantised_values(directories, one_device):
    _, model, adapted, params, _ = quantised(directories["int8"], LoRA(rank=2), NF4())
    _, of_floats, _, floats, _ = quantised(directories["int8"], LoRA(rank=2), Int8())
    twice, once = dequantized(model, adapted, params), dequantized(of_floats, adapted, floats)
    path = next(path for path in twice if path.endswith("mlp.down.kernel"))
    difference = np.abs(np.asarray(twice[path] - once[path]))
    assert 0 < difference.max() < 0.2 * np.abs(once[path]).max()


def test_damaged_and_unknown_files(directories, tmp_path):
    cut = variant(directories["nf4"], tmp_path / "cut", lambda name: None if name == f"{DOWN}.absmax" else name)
    with pytest.raises(UserError, match=f"the quantised {DOWN} is damaged"):
        jaxft.load(str(cut))
    short = variant(directories["int8"], tmp_path / "short", **{DOWN.replace("weight", "SCB"): np.ones(3, np.float32)})
    with pytest.raises(UserError, match=f"the quantised {DOWN} does not fit its scales"):
        jaxft.load(str(short))
    other = variant(directories["plain"], tmp_path / "other", config={"quantization_config": {"quant_method": "gptq"}})
    with pytest.raises(UserError, match="quantization_config=.* is not read by jaxft"):
        jaxft.load(str(other))
    assert json.loads((other / "config.json").read_text())["quantization_config"]["quant_method"] == "gptq"


def test_fused_and_transposed_matrices(tmp_path, gpt2_tokenizer, one_device):
    """GPT-2 stores (inputs, outputs), and queries, keys and values in one; bitsandbytes' files the transposed."""
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = gpt2_config(gpt2_tokenizer, layers=2, width=192, **none)
    plain = save_perturbed(transformers.GPT2LMHeadModel(config), gpt2_tokenizer, tmp_path / "plain")
    theirs = theirs_of(plain, load_in_4bit=True, bnb_4bit_quant_type="nf4").train()
    theirs.save_pretrained(tmp_path / "nf4")
    gpt2_tokenizer.save_pretrained(tmp_path / "nf4")
    wanted = theirs(input_ids=torch.tensor(IDS)).logits.detach().numpy()
    loaded = np.asarray(jaxft.load(str(tmp_path / "nf4"))(input_ids=IDS).logits)
    np.testing.assert_allclose(loaded, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    kinds = [quantised(tmp_path / name, Partial(train=("norm",)), NF4(double=False)) for name in ("plain", "nf4")]
    (_, _, _, of_floats, _), (_, _, _, of_codes, _) = kinds
    for path in of_floats:
        np.testing.assert_array_equal(of_codes[path], of_floats[path], err_msg=path)
