"""Adapters in the files of PEFT: adapter_config.json and adapter_model.safetensors (or .bin)."""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft.adapters.adapted import linears, merged_map
from jaxft.adapters.base import AdapterPart, PeftMethod, StoredModule, Tensors
from jaxft.adapters.methods import METHODS, method_of
from jaxft.host import strict_json
from jaxft.models.checkpoint.config_reader import read_raw
from jaxft.models.checkpoint.load import Views
from jaxft.models.checkpoint.pretrained import Architecture, Pretrained, architecture
from jaxft.models.checkpoint.save import fetched
from jaxft.models.checkpoint.tensors import read_tensors
from jaxft.models.checkpoint.weight_table import TensorMap
from jaxft.models.model import Model
from jaxft.models.params import Params, bind_part, names, roles, shape, variables
from jaxft.problems import UserError, raise_problems, suggest, truncated_repr

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
HEADS = ("classifier", "score", "qa_outputs")  # modules that PEFT trains whole without being asked to
# A tensor of a module's adapter: (the module, what follows its name). Their names are PEFT's: the method and an
# underscore begin each.
ADAPTED = r"(.+?)\.((?:lora|ia3|hada|lokr|miss|oft|hira)_\w+(?:\.\w+)?)"
LABELS = ("id2label", "label2id", "problem_type")
TASKS = {
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    "none": "FEATURE_EXTRACTION",
}


class AdapterFiles(NamedTuple):
    """What an adapter directory holds."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]  # by PEFT's names


def adapter_files(
    model: Model, params: Params, trained: set[str], arch: Architecture, tune: PeftMethod, base: str
) -> AdapterFiles:
    """The files of a run. `trained` are the names of the model's own parameters that train, `base` is the base model's
    name. Raises UserError for adapters that PEFT cannot represent."""
    values = {name: (path, row) for path in variables(model) for row, name in enumerate(names(model, path))}
    layers = {name: linear.adapter for path, linear in linears(model) for name in names(model, path) if linear.adapter}

    role = roles(model)

    def is_norm(name: str) -> bool:
        return role.get(name) == "norm"

    def value(name: str) -> np.ndarray:
        return fetched(params, *values[name]).astype(np.float32)

    def stored(name: str) -> Tensors:
        return layers[name].part.stored({each: value(f"{name}.adapter.{each}") for each in variables(layers[name])})

    stored_whole = {arch.parameter(one.hf) for one in arch.tensor_maps if values.keys() >= set(one.jaxft)}
    found: dict[str, StoredModule] = {}
    own: dict[str, np.ndarray] = {}
    unjoined: dict[str, list[str]] = {}  # reason -> modules
    for one in arch.tensor_maps:
        maps = [name.removesuffix(".kernel") for name in one.jaxft]
        biases = {f"{name}.bias" for name in maps}
        if one.is_linear and layers.keys() >= set(maps):
            module = arch.parameter(one.hf).removesuffix(".weight")
            joined = layers[maps[0]].part.joined([stored(name) for name in maps], partial(_joined, one))
            if joined is None or not (one.layout.outputs_axis == 0 or tune.reads_transposed):
                why = "several linear maps in one matrix" if len(maps) > 1 else "stored as (inputs, outputs)"
                unjoined.setdefault(why, []).append(module)
            elif joined.part.scales_bias and f"{module}.bias" not in stored_whole and values.keys() & biases:
                unjoined.setdefault("without the bias that jaxft scales with them", []).append(module)
            else:
                found[module] = joined
        elif trained.issuperset(one.jaxft):
            own[arch.parameter(one.hf)] = np.ascontiguousarray(one.layout.join([value(n) for n in one.jaxft]))
    problems = [_unjoined(modules, why, tune) for why, modules in unjoined.items()]
    raise_problems(problems + _expert_problems(found, arch) + tie_problems(own, arch))
    if tune.own_norms:
        own = _without_norms(own, found, [arch.parameter(one.hf) for one in arch.tensor_maps if is_norm(one.jaxft[0])])
    tensors = {
        f"{PREFIX}{module}.{suffix}": np.ascontiguousarray(array)
        for module, one in found.items()
        for suffix, array in one.tensors.items()
    }
    for name, array in own.items():
        module, _, last = name.rpartition(".")
        tensors[f"{PREFIX}{module}.base_layer.{last}" if module in found else PREFIX + name] = array
    return AdapterFiles(_config(found, own, tune, arch, base), tensors)


def _without_norms(
    own: Mapping[str, np.ndarray], found: dict[str, StoredModule], scales: Collection[str]
) -> dict[str, np.ndarray]:
    """Puts the tensors of norms, whose `scales` are named, into `found`; gives the others."""
    norms, others = {name.rpartition(".")[0] for name in scales}, {}
    for name, array in own.items():
        module, _, last = name.rpartition(".")
        if module in norms:
            found.setdefault(module, StoredModule(AdapterPart(), {})).tensors[f"ln_tuning_layers.{last}"] = array
        else:
            others[name] = array
    return others


def _joined(one: TensorMap, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Tensors (..., outputs) of linear maps as that of the module which they are."""
    array = one.layout.join(arrays)
    return array.T if one.layout.outputs_axis == 0 else array


def _unjoined(modules: Sequence[str], why: str, tune: PeftMethod) -> str:
    ends = tuple(sorted({module.rpartition(".")[2] for module in modules}))
    return (
        f"PEFT has no {tune.peft_type} adapter for {', '.join(ends)}, which are {why}: write --format=merged, or train "
        f"with tune.exclude_modules={ends!r}"
    )


def tie_problems(own: Mapping[str, np.ndarray], arch: Architecture) -> list[str]:
    """Tables that train and that the model uses twice: PEFT trains a copy for one of the places."""
    return [
        f"{name} trains, which the model also uses as {other}, but PEFT changes one of them alone: leave it out of "
        "modules_to_save, or merge the adapter where it was trained (jaxft: --format=merged, PEFT: merge_and_unload)"
        for other, name in arch.ties.items()
        if arch.parameter(name) in own and own[arch.parameter(name)].ndim == 2
    ]


def _expert_problems(found: Mapping[str, StoredModule], arch: Architecture) -> list[str]:
    """Adapted maps that PEFT takes for maps of experts, because they end with the same name."""
    experts = {one.hf.removesuffix(".weight").rpartition(".")[2] for one in arch.tensor_maps if one.expert is not None}
    mistaken = sorted({name.rpartition(".")[2] for name in found} & experts)
    if not mistaken:
        return []
    return [
        f"PEFT takes the adapted {', '.join(mistaken)} for those of experts, and would compute something else: write "
        f"--format=merged, or train with tune.exclude_modules={tuple(mistaken)}"
    ]


def _config(
    found: Mapping[str, StoredModule], own: Mapping[str, np.ndarray], tune: PeftMethod, arch: Architecture, base: str
) -> dict[str, Any]:
    """PEFT's configuration of the adapters `found` and of the model's `own` parameters that train."""
    modules = sorted({arch.parameter(one.hf).rpartition(".")[0] for one in arch.tensor_maps})
    transposed = {"fan_in_fan_out": True} if {one.layout.outputs_axis for one in arch.tensor_maps} >= {1} else {}
    settings = tune.settings(found, modules)
    biases = settings.get("bias", "none") != "none"
    saved = sorted({_module(name) for name in own if not (biases and name.endswith(".bias"))})
    return {
        "peft_type": tune.peft_type,
        "task_type": TASKS.get(arch.kind),
        "base_model_name_or_path": base,
        "inference_mode": True,
        **(transposed if tune.reads_transposed else {}),
        **settings,
        "modules_to_save": saved or None,
    }


def _module(name: str) -> str:
    """The module that PEFT saves for a tensor: a head that it saves by itself, else the tensor's own."""
    parts = name.split(".")[:-1]
    ends = [place + 1 for place, part in enumerate(parts) if part in HEADS]
    return ".".join(parts[: ends[0]] if ends else parts)


def read_adapter(directory: str | Path) -> AdapterFiles:
    """The files of an adapter. Raises UserError for a directory without them, and for methods that jaxft does not
    have."""
    directory = Path(directory)
    if not os.path.isdir(directory):  # also false for what can be no path
        raise UserError(f"the directory {directory} of an adapter does not exist")
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory} has no {CONFIG}: not a directory of a PEFT adapter")
    try:
        config = strict_json.parse((directory / CONFIG).read_bytes())
    except ValueError as error:
        raise UserError(f"{directory / CONFIG} is damaged: it has invalid JSON ({error}); copy it again") from None
    method = method_of(config) if isinstance(config, dict) else None
    if method is None:
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UserError(
            f"{directory / CONFIG} has the peft_type {truncated_repr(kind)}; jaxft reads {', '.join(METHODS)}. Merge "
            "the adapter into its model with peft (merge_and_unload), and load the model"
        )
    raise_problems(
        f"{directory / CONFIG} sets {name} to {truncated_repr(config[name])}, which jaxft does not read. Merge the "
        "adapter into its model with peft (merge_and_unload), and load the model"
        for name, usual in method.unread.items()
        if config.get(name) not in (*(usual if isinstance(usual, tuple) else [usual]), None, {}, [])
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
    by_tensor = {arch.parameter(one.hf): one for one in arch.tensor_maps}
    modules = {name.removesuffix(".weight") for name, one in by_tensor.items() if one.is_linear}
    stored, own, problems = sorted_tensors(files, modules, directory)
    values, more = own_values(own, views, by_tensor, directory)
    merged, problems = {**views, **values}, problems + more + tie_problems(own, arch)
    for module, tensors in stored.items():
        one = by_tensor[module + ".weight"]
        try:
            merged |= _merged(module, tensors, one, by_tensor.get(module + ".bias"), views, merged, files.config)
        except MISFITS:
            problems.append(other_base(module, next(iter(tensors.values())).shape, directory))
    raise_problems(problems)
    return merged


def own_values(
    own: Mapping[str, np.ndarray], views: Views, by_tensor: Mapping[str, TensorMap], directory: str | Path
) -> tuple[Views, list[str]]:
    """(values, by parameter, of the model's own tensors in an adapter's files; problems)."""
    found: Views = {}
    unknown = [name for name in own if name not in by_tensor]
    problems = [_unknown(unknown, by_tensor, directory)] if unknown else []
    for name in sorted(own.keys() - unknown):
        one, array = by_tensor[name], own[name]
        widths = [int(np.shape(views[n])[-1]) if n in views else len(array) for n in one.jaxft]
        for parameter, piece in zip(one.jaxft, one.layout.split(array.astype(np.float32), widths), strict=True):
            if parameter in views and views[parameter].shape != piece.shape:
                problems.append(other_base(name, array.shape, directory))
            found[parameter] = piece
    return found, problems


# What PEFT's tensors raise where they are not those of a module's adapter: missing, or of another shape.
MISFITS = (KeyError, ValueError)


def _merged(
    module: str,
    tensors: Tensors,
    one: TensorMap,
    of_bias: TensorMap | None,
    views: Views,
    changed: Views,
    config: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """The kernels and biases of a module's linear maps with its adapter in them. Raises one of MISFITS."""
    method = method_of(config)
    assert method is not None
    kernels = [np.asarray(views[name][:, :], np.float32) for name in one.jaxft]
    widths = [kernel.shape[1] for kernel in kernels]
    biases = of_bias.jaxft if of_bias and changed.keys() >= set(of_bias.jaxft) else ()
    vectors = [np.asarray(changed[name][(slice(None),)], np.float32) for name in biases]
    part = method.part_of(config, module, tensors)
    kernel, bias = _joined(one, kernels), _joined(one, vectors) if vectors else None
    inputs, outputs = kernel.shape
    adapter = part.build(inputs, outputs, (None, None))
    values = part.start(kernel) | part.values(tensors)
    wanted = {path: shape(variable) for path, variable in variables(adapter).items()}
    if {name: array.shape for name, array in values.items()} != wanted:
        raise ValueError(wanted)
    new_kernel, new_bias = jax.device_get(jax.jit(merged_map)(bind_part(adapter, "", values), kernel, bias))
    pieces = one.layout.split(new_kernel.T if one.layout.outputs_axis == 0 else new_kernel, widths)
    merged = dict(zip(one.jaxft, pieces, strict=True))
    return merged if new_bias is None else merged | dict(zip(biases, one.layout.split(new_bias, widths), strict=True))


def sorted_tensors(
    files: AdapterFiles, modules: Collection[str], directory: str | Path
) -> tuple[dict[str, Tensors], dict[str, np.ndarray], list[str]]:
    """(module -> its adapter's tensors, the model's own tensors by name, problems)."""
    stored: dict[str, Tensors] = {}
    own: dict[str, np.ndarray] = {}
    for name, array in files.tensors.items():
        name = name.removeprefix(PREFIX)
        if re.search(r"\.(original_module|modules_to_save)\.", name):  # PEFT writes these biases twice
            continue
        if adapted := re.fullmatch(ADAPTED, name):
            stored.setdefault(adapted[1], {})[adapted[2]] = array.astype(np.float32)
        else:
            own[re.sub(r"\.(base_layer|ln_tuning_layers)\.", ".", name)] = array
    unknown = [module for module in stored if module not in modules]
    problems = [_unknown(unknown, modules, directory)] if unknown else []
    return {module: tensors for module, tensors in stored.items() if module in modules}, own, problems


def _unknown(names_of: Sequence[str], known: Collection[str], directory: str | Path) -> str:
    first, more = names_of[0], f" and {len(names_of) - 1} more" if len(names_of) > 1 else ""
    return (
        f"the adapter in {directory} has weights for {first}{more}, which the model does not have."
        f"{suggest(first, known)} Load it on the model that it was trained on, or with its head"
    )


def other_base(name: str, shape: tuple[int, ...], directory: str | Path) -> str:
    return (
        f"the adapter in {directory} has shape {tuple(shape)} for {name}, which does not fit the model: load it on the "
        "model that it was trained on"
    )


def config_json(files: AdapterFiles) -> str:
    """The text of adapter_config.json."""
    return json.dumps(files.config, indent=2, sort_keys=True) + "\n"
