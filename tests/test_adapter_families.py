"""LoRA on every family: PEFT computes the same with jaxft's files, and jaxft with PEFT's."""

import dataclasses
import json

import peft
import pytest
import torch
from adapted import adapted, by_peft, check, outputs_of, peft_warnings, write
from zoo import FAMILIES, heads_of, make

import jaxft
from jaxft.adapters.adapted import adapted_weights, merged_params
from jaxft.adapters.lora import LoRA
from jaxft.adapters.peft_files import CONFIG, adapter_files

TUNE = LoRA(rank=3, alpha=7.0)
# Maps that PEFT takes for those of experts.
BEYOND = dict.fromkeys(("qwen2_moe", "qwen3_moe"), ("down_proj", "gate_proj", "up_proj"))


def tune_of(family):
    return dataclasses.replace(TUNE, exclude_modules=BEYOND.get(family, ()))


@pytest.fixture(autouse=True)
def single(one_device):
    """Load onto one device: smaller programs, quicker to compile."""


def head_of(family):
    heads = heads_of(family)
    return "sequence-classification" if "sequence-classification" in heads else list(heads)[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_what_jaxft_writes(family, tmp_path):
    theirs = make(family, head_of(family), tmp_path / "a")
    arch, model, base, params, own = adapted(tmp_path / "a", tune_of(family))
    assert len(adapted_weights(model)) >= 2
    files = adapter_files(model, params, own, arch, TUNE, str(tmp_path / "a"))
    theirs = by_peft(theirs, write(tmp_path / "adapter", files))
    check(theirs.get_base_model(), arch, outputs_of(model, params), "adapted")
    check(theirs.get_base_model(), arch, outputs_of(base, merged_params(model, params)), "merged")
    again = jaxft.load(str(tmp_path / "a"), adapter=str(tmp_path / "adapter"))
    assert again.arch.kind == arch.kind
    check(theirs.get_base_model(), arch, outputs_of(again.model, again.params), "read again")


@pytest.mark.parametrize("family", FAMILIES)
def test_jaxft_reads_what_peft_writes(family, tmp_path):
    theirs = make(family, head_of(family), tmp_path / "a")
    arch, model, _, params, own = adapted(tmp_path / "a", tune_of(family))
    config = adapter_files(model, params, own, arch, TUNE, str(tmp_path / "a")).config
    torch.manual_seed(0)
    with peft_warnings():
        lora = peft.LoraConfig(
            r=3,
            lora_alpha=7.0,
            target_modules=config["target_modules"],
            modules_to_save=config["modules_to_save"],
            task_type=config["task_type"],
            init_lora_weights=False,
        )
        theirs = peft.get_peft_model(theirs, lora).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape) if parameter.requires_grad else 0.0)
        theirs.save_pretrained(tmp_path / "adapter")
    ours = jaxft.load(str(tmp_path / "a"), adapter=str(tmp_path / "adapter"))
    check(theirs.get_base_model(), arch, outputs_of(ours.model, ours.params), "PEFT's adapter")
    stored = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert stored["peft_type"] == "LORA"
