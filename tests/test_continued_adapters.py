"""Training goes on from an adapter in PEFT's files."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from adapted import adapted, by_peft, check, outputs_of, write
from runs import command, numbers, write_rows
from zoo import make

from jaxft.adapters.dora import DoRA
from jaxft.adapters.hira import HiRA
from jaxft.adapters.ia3 import IA3
from jaxft.adapters.ln_tuning import LNTuning
from jaxft.adapters.loha import LoHa
from jaxft.adapters.lokr import LoKr
from jaxft.adapters.lora import LoRA
from jaxft.adapters.miss import MiSS
from jaxft.adapters.oft import OFT
from jaxft.adapters.peft_files import adapter_files
from jaxft.adapters.start import continued
from jaxft.config import Config, Eval, Save
from jaxft.data import Data
from jaxft.models.params import lead, names, variables
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.training.fit import fit
from jaxft.training.setup import build


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    theirs = {
        "encoder": make("bert", "sequence-classification", folder / "encoder"),
        "fused": make("gpt2", "causal-lm", folder / "fused"),
    }
    return folder, theirs


METHODS = [
    (kind, tune)
    for kind, tunes in {
        "encoder": (LoRA(rank=2, dropout=0.1), DoRA(rank=2), IA3(), LNTuning(), MiSS(rank=5, dropout=0.1)),
        "fused": (LoRA(rank=2), DoRA(rank=2), IA3(), LNTuning()),
    }.items()
    for tune in tunes
] + [("encoder", tune) for tune in (OFT(block_size=4), HiRA(rank=2), LoHa(rank=2), LoKr(rank=2))]


@pytest.mark.parametrize(("kind", "tune"), METHODS, ids=lambda one: one if isinstance(one, str) else type(one).__name__)
def test_the_values_are_those_of_the_files(models, kind, tune, one_device):
    directory = models[0] / kind
    arch, model, _, params, own = adapted(directory, tune)
    files = adapter_files(model, params, own, arch, tune, str(directory))
    values = continued(model, arch, {}, files, tune, "adapter")
    for path, variable in variables(model).items():
        for row, name in enumerate(names(model, path)):
            each = params[path][row] if lead(variable) else params[path]
            if variable.get_metadata("origin") == "adapter" or name in own:
                np.testing.assert_array_equal(values.pop(name), each, err_msg=name)
    assert not values


def test_one_adapter_of_several_maps_goes_on_in_each(models, tmp_path, one_device):
    """PEFT's A of a matrix that is three linear maps is the start of three."""
    directory, tune = models[0] / "fused", LoRA(rank=3)
    arch, model, _, params, own = adapted(directory, tune)
    files = adapter_files(model, params, own, arch, tune, str(directory))
    for name in [name for name in files.tensors if "c_attn" in name]:
        cut = (slice(3), slice(None)) if "lora_A" in name else (slice(None), slice(3))
        files.tensors[name] = np.ascontiguousarray(files.tensors[name][cut] + np.float32(0.1))
    files.config["rank_pattern"], files.config["alpha_pattern"] = {}, {}
    theirs = by_peft(models[1]["fused"], write(tmp_path / "adapter", files)).get_base_model()
    values = continued(model, arch, {}, files, tune, "adapter")
    for path, variable in variables(model).items():
        if variable.get_metadata("origin") == "adapter":
            params[path] = np.stack([values[name] for name in names(model, path)])
    with torch.no_grad():
        check(theirs, arch, outputs_of(model, params), "continued")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_bert):
    """(configuration, directory of its adapter, metrics) of a run."""
    folder = tmp_path_factory.mktemp("first")
    data = write_rows(folder / "train.csv", 40)
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(),
        data=Data(path=data),
        evals={"val": Eval(data=Data(path=data))},
        tune=LoRA(rank=2),
        lr=1e-2,
        batch=8,
        steps=4,
        save=Save(every=2),
        max_len=32,
    )
    done = fit(cfg, folder / "run")
    arguments = (f"--workdir={folder / 'run'}", f"--output={folder / 'adapter'}", "--format=adapter")
    assert command("export", *arguments, cwd=folder).returncode == 0
    return cfg, folder / "adapter", done.metrics


def test_a_run_goes_on(run, tmp_path):
    cfg, adapter, metrics = run
    more = dataclasses.replace(cfg, adapter=str(adapter), eval_on_start=True, steps=2)
    fit(more, tmp_path / "run")
    first = next(row for row in numbers(tmp_path / "run") if row["split"] == "val")
    assert first["step"] == 0
    assert first["loss"] == pytest.approx(metrics["val"]["loss"], abs=1e-6)
    assert first["accuracy"] == metrics["val"]["accuracy"]


def test_what_does_not_fit(run, tmp_path):
    cfg, adapter, _ = run
    for tune, message in {
        "IA3": (IA3(), "has an adapter of LoRA, but config.tune is IA3: set config.tune=LoRA"),
        "rank": (LoRA(rank=3), "(rank 2, alpha 16, or with rslora 11.3137) and 17 more: make them equal"),
        "alpha": (LoRA(rank=2, alpha=1.0), "has other settings than config.tune"),
        "fewer": (LoRA(rank=2, target_modules=("query",)), "has an adapter for bert.encoder.layer.0.attention.output"),
    }.values():
        with pytest.raises(UserError) as error:
            build(dataclasses.replace(cfg, adapter=str(adapter), tune=tune), ["train"]).load()
        assert message in str(error.value)
    shutil.copytree(adapter, tmp_path / "few")
    config = (tmp_path / "few" / "config.json").read_text()
    (tmp_path / "few" / "config.json").write_text(config.replace('"neg"', '"negative"'))
    with pytest.raises(UserError, match="the adapter's head knows the classes"):
        build(dataclasses.replace(cfg, adapter=str(tmp_path / "few")), ["train"])


def test_files_without_an_adapted_module(models, one_device):
    directory, tune = models[0] / "encoder", LoRA(rank=2, target_modules=("query",))
    arch, model, _, params, own = adapted(directory, tune)
    files = adapter_files(model, params, own, arch, tune, str(directory))
    _, wider, _, _, _ = adapted(directory, LoRA(rank=2, target_modules=("query", "key")))
    with pytest.raises(UserError, match="has none for bert.encoder.layer.0.attention.self.key and 2 more"):
        continued(wider, arch, {}, files, LoRA(rank=2, target_modules=("query", "key")), "adapter")
