"""Soft prompts in the files of PEFT: adapter_config.json and adapter_model.safetensors (or .bin).

A file holds the vectors of the prompt, `prompt_embeddings`, and what else trained, under transformers' names after
`base_model.`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.adapters.peft_files import CONFIG, WEIGHTS, AdapterFiles
from jaxft.adapters.prefix_tuning import PrefixTuning
from jaxft.adapters.prompt_tuning import PromptTuning
from jaxft.adapters.soft_prompt import TASK_TYPES, SoftPrompt, input_width
from jaxft.host import strict_json
from jaxft.models.checkpoint.load import Views
from jaxft.models.checkpoint.pretrained import Architecture, Pretrained, architecture
from jaxft.models.checkpoint.save import fetched
from jaxft.models.checkpoint.tensors import has_weights, read_tensors
from jaxft.models.model import Model
from jaxft.models.params import Params, bind, names, variables
from jaxft.problems import UserError, raise_problems, suggest

PREFIX, VECTORS = "base_model.", "prompt_embeddings"
# The peft_type of a file -> the method whose parameters are what it stores.
METHODS: dict[str, Callable[..., SoftPrompt]] = {
    "PROMPT_TUNING": PromptTuning,
    "P_TUNING": PromptTuning,
    "PREFIX_TUNING": PrefixTuning,
}


def prompt_files(
    model: Model, params: Params, trained: set[str], arch: Architecture, tune: SoftPrompt, base: str
) -> AdapterFiles:
    """The files of a run. `trained` are the names of the model's own parameters that train, `base` is the base model's
    name."""
    values = {name: (path, row) for path in variables(model) for row, name in enumerate(names(model, path))}
    vectors = tune.vectors(bind(model, params))
    tensors = {VECTORS: fetched({VECTORS: vectors}, VECTORS, 0).astype(np.float32)}
    for one in arch.tensor_maps:
        if trained.issuperset(one.jaxft):
            pieces = [fetched(params, *values[name]).astype(np.float32) for name in one.jaxft]
            tensors[PREFIX + arch.parameter(one.hf)] = np.ascontiguousarray(one.layout.join(pieces))
    side = arch.spec.input_side
    config = {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "num_attention_heads": side.layers[0].attn.heads,
        "num_layers": len(side.layers),
        "num_transformer_submodules": 1,
        "num_virtual_tokens": tune.num_virtual_tokens,
        "task_type": TASK_TYPES[arch.kind],
        "token_dim": input_width(arch.spec),
    }
    return AdapterFiles(config | tune.peft_config(arch), tensors)


@dataclass
class StoredPrompt:
    """A soft prompt of PEFT."""

    directory: str
    config: dict[str, Any]
    vectors: np.ndarray  # float32 (virtual tokens, width)
    own: dict[str, np.ndarray]  # parameters of the model that trained with it, by transformers' names

    def architecture(self, pretrained: Pretrained, head: str | None) -> Architecture:
        """The base's architecture with the head of the prompt's task_type, with as many classes as its weights have."""
        kinds = {task: kind for kind, task in TASK_TYPES.items()}
        arch = architecture(pretrained, head or kinds.get(self.config.get("task_type") or ""))
        out = next((arch.parameter(one.hf) for one in arch.tensor_maps if one.jaxft == ("head.out.kernel",)), "")
        return arch if out not in self.own else architecture(pretrained, arch.kind, len(self.own[out]))

    def tune(self, arch: Architecture, pretrained: Pretrained) -> SoftPrompt:
        """The tuning method that gives the prompt its place in a model. Raises UserError if the model has none."""
        method = METHODS[self.config["peft_type"]](num_virtual_tokens=len(self.vectors))
        raise_problems(method.refusals(arch, pretrained))
        return method

    def views(self, model: Model, arch: Architecture, tune: SoftPrompt) -> Views:
        """Parameter name -> the prompt's values. Raises UserError for those that the model does not have."""
        found = tune.from_vectors(model, self.vectors)
        if found is None:
            raise UserError(self._other_base(VECTORS, self.vectors.shape))
        problems: list[str] = []
        by_name, known = {arch.parameter(one.hf): one for one in arch.tensor_maps}, variables(model)
        sizes = {name: known[path].get_value().shape for path in known for name in names(model, path)}
        for name, array in self.own.items():
            one = by_name.get(name)
            if one is None:
                problems.append(
                    f"the adapter in {self.directory} has weights for {name}, which the model does not have."
                    f"{suggest(name, by_name)} Load it on the model that it was trained on, or with its head"
                )
                continue
            pieces = one.layout.split(array.astype(np.float32), [sizes[n][-1] for n in one.jaxft])
            wrong = [n for n, piece in zip(one.jaxft, pieces, strict=True) if piece.shape != sizes[n]]
            problems += [self._other_base(name, array.shape)] if wrong else []
            found |= dict(zip(one.jaxft, pieces, strict=True))
        raise_problems(problems)
        return found

    def _other_base(self, name: str, shape: tuple[int, ...]) -> str:
        return (
            f"the adapter in {self.directory} has shape {tuple(shape)} for {name}, which does not fit the model: load "
            "it on the model that it was trained on"
        )


def read_prompt(directory: str | Path) -> StoredPrompt | None:
    """The soft prompt in a directory; None if its method is another one. Raises UserError for damaged files."""
    config = _config(Path(directory))
    if config.get("peft_type") not in METHODS:
        return None
    weights = next((Path(directory) / name for name in WEIGHTS if (Path(directory) / name).is_file()), None)
    if weights is None:
        raise UserError(f"{directory} has no weights: none of {', '.join(WEIGHTS)}")
    tensors = dict(read_tensors(weights))
    vectors, count = tensors.pop(VECTORS, None), config.get("num_virtual_tokens")
    if vectors is None or vectors.ndim != 2 or not isinstance(count, int) or len(vectors) % max(count, 1):
        shape = "no such tensor" if vectors is None else f"the shape {vectors.shape}"
        raise UserError(
            f"{weights} has {shape} for {VECTORS}, but num_virtual_tokens of {CONFIG} is {count}: copy both files again"
        )
    own = {name.removeprefix(PREFIX): array for name, array in tensors.items()}
    # Of an encoder-decoder PEFT stores the vectors of both sides, and uses those of the encoder, which come first.
    return StoredPrompt(str(directory), config, vectors[:count].astype(np.float32), own)


def base_of(directory: str | Path) -> str | None:
    """The base model of an adapter's directory, by its adapter_config.json; None for any other directory."""
    path = Path(directory)
    if not os.path.isfile(path / CONFIG) or has_weights(path):  # also false for what can be no path
        return None
    base = _config(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{path / CONFIG} names no base_model_name_or_path: load the base model with adapter={str(path)!r}"
        )
    return base


def _config(directory: Path) -> dict[str, Any]:
    """adapter_config.json; {} if it is missing or damaged, which `read_adapter` reports."""
    try:
        config = strict_json.parse((directory / CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
