"""Adapters in the files of PEFT: adapter_config.json and adapter_model.safetensors (or .bin)."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxft.adapters.adapted import linears
from jaxft.adapters.lora import LoRA
from jaxft.adapters.targets import pattern_value, short_names
from jaxft.host import strict_json
from jaxft.models.checkpoint.config_reader import read_raw
from jaxft.models.checkpoint.load import Views
from jaxft.models.checkpoint.pretrained import Architecture, Pretrained, architecture
from jaxft.models.checkpoint.save import fetched
from jaxft.models.checkpoint.tensors import read_tensors
from jaxft.models.checkpoint.weight_table import TensorMap
from jaxft.models.model import Model
from jaxft.models.params import Params, names, variables
from jaxft.problems import UserError, raise_problems, suggest, truncated_repr

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
HEADS = ("classifier", "score", "qa_outputs")  # modules that PEFT trains whole without being asked to
LABELS = ("id2label", "label2id", "problem_type")
TASKS = {
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    "none": "FEATURE_EXTRACTION",
}
# Settings of LoRA that change what an adapter computes, and that jaxft does not have yet; PEFT's defaults.
UNKNOWN = {
    "use_dora": False,
    "lora_bias": False,
    "target_parameters": None,
    "trainable_token_indices": None,
    "layer_replication": None,
    "megatron_config": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "use_bdlora": None,
    "velora_config": None,
    "monteclora_config": None,
    "arrow_config": None,
    "kasa_config": None,
}


class StoredAdapter(NamedTuple):
    """The adapter of one module as PEFT stores it: scale * b @ a is added to its matrix."""

    a: np.ndarray  # (rank, inputs)
    b: np.ndarray  # (outputs, rank)
    scale: float


class AdapterFiles(NamedTuple):
    """What an adapter directory holds."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]  # by PEFT's names


def adapter_files(
    model: Model, params: Params, trained: set[str], arch: Architecture, tune: LoRA, base: str
) -> AdapterFiles:
    """The files of a LoRA run. `trained` are the names of the model's own parameters that train, `base` is the base
    model's name."""
    values = {name: (path, row) for path in variables(model) for row, name in enumerate(names(model, path))}
    layers = {path: linear.adapter for path, linear in linears(model) if linear.adapter is not None}
    parts = {name: layer.part for path, layer in layers.items() for name in names(model, path)}
    found: dict[str, StoredAdapter] = {}
    own: dict[str, np.ndarray] = {}

    def value(name: str) -> np.ndarray:
        return fetched(params, *values[name]).astype(np.float32)

    for one in arch.tensor_maps:
        maps = [name.removesuffix(".kernel") for name in one.jaxft]
        if one.is_linear and parts.keys() >= set(maps):
            low = [(value(f"{name}.adapter.a"), value(f"{name}.adapter.b")) for name in maps]
            found[arch.parameter(one.hf).removesuffix(".weight")] = _joined(one, low, parts[maps[0]].scale)
        elif trained.issuperset(one.jaxft):
            own[arch.parameter(one.hf)] = np.ascontiguousarray(one.layout.join([value(n) for n in one.jaxft]))
    raise_problems(_expert_problems(found, arch))
    tensors = {f"{PREFIX}{module}.lora_A.weight": stored.a for module, stored in found.items()}
    tensors |= {f"{PREFIX}{module}.lora_B.weight": stored.b for module, stored in found.items()}
    for name, array in own.items():
        module, _, last = name.rpartition(".")
        tensors[f"{PREFIX}{module}.base_layer.{last}" if module in found else PREFIX + name] = array
    modules = [arch.parameter(one.hf).removesuffix(".weight") for one in arch.tensor_maps if one.is_linear]
    config = _config(found, own, modules, tune, arch, base)
    return AdapterFiles(config, tensors)


def _expert_problems(found: Mapping[str, StoredAdapter], arch: Architecture) -> list[str]:
    """Adapted maps that PEFT takes for maps of experts, because they end with the same name."""
    experts = {one.hf.removesuffix(".weight").rpartition(".")[2] for one in arch.tensor_maps if one.expert is not None}
    mistaken = sorted({name.rpartition(".")[2] for name in found} & experts)
    if not mistaken:
        return []
    return [
        f"PEFT takes the adapted {', '.join(mistaken)} for those of experts, and would compute something else: write "
        f"--format=merged, or train with tune.exclude_modules={tuple(mistaken)}"
    ]


def _joined(one: TensorMap, low: list[tuple[np.ndarray, np.ndarray]], scale: float) -> StoredAdapter:
    """The adapter of a module: of several fused maps, one whose rank is the sum of theirs."""
    rows = []
    for number, (_, b) in enumerate(low):
        blocks = [np.zeros((len(b), other.shape[1]), b.dtype) for _, other in low]
        blocks[number] = b
        joined = one.layout.join(blocks)
        rows.append(joined if one.layout.outputs_axis == 0 else joined.T)
    a = np.concatenate([a.T for a, _ in low])
    return StoredAdapter(np.ascontiguousarray(a), np.ascontiguousarray(np.concatenate(rows, 1)), scale)


def _config(
    found: Mapping[str, StoredAdapter],
    own: Mapping[str, np.ndarray],
    modules: list[str],
    tune: LoRA,
    arch: Architecture,
    base: str,
) -> dict[str, Any]:
    """PEFT's LoraConfig of the adapters `found` and of the model's `own` parameters that train."""
    alphas = {name: one.scale * (math.sqrt(len(one.a)) if tune.rslora else len(one.a)) for name, one in found.items()}
    axes = {one.layout.outputs_axis for one in arch.tensor_maps if one.is_linear}
    saved = sorted({_module(name) for name in own if not (tune.bias != "none" and name.endswith(".bias"))})
    return {
        "peft_type": "LORA",
        "task_type": TASKS.get(arch.kind),
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": tune.rank,
        "lora_alpha": tune.alpha,
        "lora_dropout": tune.dropout,
        "use_rslora": tune.rslora,
        "bias": tune.bias,
        "fan_in_fan_out": axes == {1},
        "target_modules": short_names(found, modules),
        "rank_pattern": {name: len(one.a) for name, one in found.items() if len(one.a) != tune.rank},
        "alpha_pattern": {name: alpha for name, alpha in alphas.items() if not math.isclose(alpha, tune.alpha)},
        "modules_to_save": saved or None,
    }


def _module(name: str) -> str:
    """The module that PEFT saves for a tensor: a head that it saves by itself, else the tensor's own."""
    parts = name.split(".")[:-1]
    ends = [place + 1 for place, part in enumerate(parts) if part in HEADS]
    return ".".join(parts[: ends[0]] if ends else parts)


def read_adapter(directory: str | Path) -> AdapterFiles:
    """The files of an adapter. Raises UserError for a directory without them, and for methods other than LoRA."""
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory} has no {CONFIG}: not a directory of a PEFT adapter")
    try:
        config = strict_json.parse((directory / CONFIG).read_bytes())
    except ValueError as error:
        raise UserError(f"{directory / CONFIG} is damaged: it has invalid JSON ({error}); copy it again") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise UserError(
            f"{directory / CONFIG} has the peft_type {truncated_repr(kind)}; jaxft reads LORA. Merge the adapter into "
            "its model with peft (merge_and_unload), and load the model"
        )
    raise_problems(
        f"{directory / CONFIG} sets {name} to {truncated_repr(config[name])}, which jaxft does not read. Merge the "
        "adapter into its model with peft (merge_and_unload), and load the model"
        for name, usual in UNKNOWN.items()
        if config.get(name, usual) not in (usual, None, {}, [])
    )
    weights = next((directory / name for name in WEIGHTS if (directory / name).is_file()), None)
    if weights is None:
        raise UserError(f"{directory} has no weights: none of {', '.join(WEIGHTS)}")
    return AdapterFiles(config, dict(read_tensors(weights)))


def with_labels(pretrained: Pretrained, directory: str | Path) -> Pretrained:
    """The base model with the labels of an adapter's config.json, which jaxft writes and PEFT does not."""
    file = Path(directory) / "config.json"
    if not file.is_file():
        return pretrained
    found = read_raw(Path(directory))
    return replace(pretrained, raw=pretrained.raw | {name: found[name] for name in LABELS if name in found})


def adapted_architecture(pretrained: Pretrained, files: AdapterFiles, head: str | None) -> Architecture:
    """The architecture with the adapter's head: the one of its task_type, with as many classes as its weights have."""
    kinds = {task: kind for kind, task in TASKS.items()}
    kind = head or kinds.get(files.config.get("task_type") or "")
    arch = architecture(pretrained, kind)
    out = next((arch.parameter(one.hf) for one in arch.tensor_maps if one.jaxft == ("head.out.kernel",)), None)
    stored = files.tensors.get(f"{PREFIX}{out}")
    return arch if stored is None else architecture(pretrained, arch.kind, len(stored))


def merged_views(views: Views, files: AdapterFiles, arch: Architecture, directory: str | Path) -> Views:
    """The checkpoint's values (models/checkpoint/load.py), with the adapter merged in; changed ones are float32.

    Raises UserError for tensors that the model does not have, or in other shapes.
    """
    stored, own, problems = _sorted(files)
    by_module = {arch.parameter(one.hf): one for one in arch.tensor_maps}
    merged = dict(views)
    for name, array in own.items():
        one = by_module.get(name)
        if one is None:
            problems.append(_unknown(name, by_module, directory))
            continue
        widths = [int(np.shape(views[n])[-1]) if n in views else len(array) for n in one.jaxft]
        for parameter, piece in zip(one.jaxft, one.layout.split(array.astype(np.float32), widths), strict=True):
            if parameter in views and views[parameter].shape != piece.shape:
                problems.append(_other_base(name, array.shape, directory))
            merged[parameter] = piece
    for module, adapter in stored.items():
        one = by_module.get(module + ".weight")
        if one is None or not one.is_linear:
            problems.append(_unknown(module, by_module, directory))
            continue
        kernels = [views[name][:, :].astype(np.float32) for name in one.jaxft]
        fits = (len(kernels[0]), sum(kernel.shape[1] for kernel in kernels)) == (adapter.a.shape[1], len(adapter.b))
        if not fits or adapter.a.shape[0] != adapter.b.shape[1]:
            problems.append(_other_base(module, (len(adapter.b), adapter.a.shape[1]), directory))
            continue
        b = adapter.b if one.layout.outputs_axis == 0 else adapter.b.T
        pieces = one.layout.split(b, [kernel.shape[1] for kernel in kernels])
        a = adapter.a.T
        for name, kernel, piece in zip(one.jaxft, kernels, pieces, strict=True):
            merged[name] = kernel + np.float32(adapter.scale) * (a @ piece)
    raise_problems(problems)
    return merged


def _sorted(files: AdapterFiles) -> tuple[dict[str, StoredAdapter], dict[str, np.ndarray], list[str]]:
    """(adapters by module, the model's own tensors by name, problems)."""
    config, own = files.config, {}
    lows: dict[str, dict[str, np.ndarray]] = {}
    for name, array in files.tensors.items():
        name = name.removeprefix(PREFIX)
        if low := re.fullmatch(r"(.+)\.lora_([AB])\.weight", name):
            lows.setdefault(low[1], {})[low[2]] = array.astype(np.float32)
        elif not re.search(r"\.(original_module|modules_to_save)\.", name):  # PEFT writes these biases twice
            own[name.replace(".base_layer.", ".")] = array
    problems = [f"the adapter has only half of the weights of {name}" for name, both in lows.items() if len(both) < 2]
    stored = {}
    for name, both in lows.items():
        if len(both) == 2:
            rank = len(both["A"])
            alpha = pattern_value(config.get("alpha_pattern") or {}, name, config.get("lora_alpha", 8))
            stored[name] = StoredAdapter(
                both["A"], both["B"], alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            )
    return stored, own, problems


def _unknown(name: str, known: Mapping[str, TensorMap], directory: str | Path) -> str:
    return (
        f"the adapter in {directory} has weights for {name}, which the model does not have.{suggest(name, known)} Load "
        "it on the model that it was trained on, or with its head"
    )


def _other_base(name: str, shape: tuple[int, ...], directory: str | Path) -> str:
    return (
        f"the adapter in {directory} has shape {tuple(shape)} for {name}, which does not fit the model: load it on the "
        "model that it was trained on"
    )


def config_json(files: AdapterFiles) -> str:
    """The text of adapter_config.json."""
    return json.dumps(files.config, indent=2, sort_keys=True) + "\n"
