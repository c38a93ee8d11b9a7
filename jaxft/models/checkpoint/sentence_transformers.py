"""Reads and writes the modules of a sentence-transformers directory, which turn hidden states into text embeddings.

That library (https://sbert.net) is not needed. The files are:

    modules.json                        the modules in order: Transformer, Pooling, then Dense and Normalize
    1_Pooling/config.json               how hidden states become one vector
    2_Dense/                            a linear layer, its activation and its weights
    sentence_bert_config.json           max_seq_length and do_lower_case
    config_sentence_transformers.json   prompts, which precede texts, and the similarity of two embeddings
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxft.host.strict_json import parse
from jaxft.models.checkpoint.sentence_embedding import NUMPY_ACTIVATIONS, DenseModule, Normalize, SentenceEmbedding
from jaxft.models.checkpoint.tensors import open_tensors
from jaxft.problems import UserError, raise_problems, truncated_repr

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerFast

# Name of a pooling mode in older files -> its name; several modes are concatenated in this order.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
MODULES, PROMPTS, LENGTHS = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model")
AFTER_POOLING = ("Dense", "Normalize")  # modules that may follow the pooling


def read_embedding(directory: str | Path) -> SentenceEmbedding:
    """Reads a directory. Raises UserError for modules and settings that are not supported."""
    directory = Path(directory)
    found: dict = {"files": []}
    places = _modules(directory, found)
    for kind, place in places:
        config = _object(directory, f"{place}/config.json" if place else "config.json", found, kind != "Normalize")
        if kind == "Pooling":
            found |= _pooling(directory / place, config)
        elif kind == "Dense":
            found["layers"] = (*found.get("layers", ()), _dense(directory / place, config))
            weights = [file.name for file in (directory / place).iterdir() if file.name.startswith(WEIGHTS)]
            found["files"] += [f"{place}/{name}" for name in sorted(weights)]
        else:
            _plain(directory / place, config)
            found["layers"] = (*found.get("layers", ()), Normalize())
    found |= _lengths(directory, found) | _prompts(directory, found)
    return SentenceEmbedding(directory, **found | {"files": tuple(dict.fromkeys(found["files"]))})


def _modules(directory: Path, found: dict) -> list[tuple[str, str]]:
    """(type, folder) of the modules after the Transformer."""
    if not (directory / MODULES).exists():
        return [("Pooling", "1_Pooling")] if (directory / "1_Pooling" / "config.json").exists() else []
    listed = _read(directory, MODULES, found)
    good = isinstance(listed, list) and all(
        isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("path", "type")) for one in listed
    )
    if not good or not listed:
        raise UserError(f"{directory / MODULES}: expected a list of modules, each with a path and a type")
    kinds = [
        one["type"].rpartition(".")[2] if one["type"].startswith("sentence_transformers.") else one["type"]
        for one in listed
    ]
    known = ("Transformer", "Pooling", *AFTER_POOLING)
    raise_problems(
        f"{directory / MODULES}: the module {truncated_repr(kind)} is not supported, only {', '.join(known)}"
        for kind in kinds
        if kind not in known
    )
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= set(AFTER_POOLING) or listed[0]["path"]:
        raise UserError(
            f"{directory / MODULES}: the modules {', '.join(kinds)} are not supported: expected a Transformer in the "
            "directory itself, a Pooling, and after them Dense and Normalize"
        )
    places = [one["path"] for one in listed[1:]]
    raise_problems(
        f"{directory / MODULES}: the path {truncated_repr(place)} is not a folder of the directory"
        for place in places
        if not place or Path(place).name != place or place in (".", "..")
    )
    return list(zip(kinds[1:], places, strict=True))


def _pooling(place: Path, config: dict) -> dict:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in MODES.items() if config.get(name)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    asked = [name for name, on in config.items() if name.startswith("pooling_mode_") and on and name not in MODES]
    asked += [mode for mode in modes if mode not in MODES.values()] if isinstance(modes, list) else [modes]
    raise_problems(
        f"{place}: the pooling {truncated_repr(one)} is not supported, only {', '.join(MODES.values())}"
        for one in asked
    )
    return {"pooling": tuple(modes), "include_prompt": config.get("include_prompt", True) is not False}


def _dense(place: Path, config: dict) -> DenseModule:
    _plain(place, config)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    name = str(activation).rpartition(".")[2]
    if not str(activation).startswith("torch.nn.") or name not in NUMPY_ACTIVATIONS:
        raise UserError(
            f"{place}: the activation {truncated_repr(activation)} is not supported, "
            f"only {', '.join(NUMPY_ACTIVATIONS)}"
        )
    tensors = open_tensors(place)
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    wanted = (config.get("out_features"), config.get("in_features"))
    raise_problems([f"{place} has no tensor linear.weight {wanted}"] * (weight is None or weight.shape != wanted))
    others = sorted(tensors.keys() - {"linear.weight", "linear.bias"})
    fits = bias is None if config.get("bias") is False else bias is not None and bias.shape == wanted[:1]
    raise_problems([f"{place}: its tensors are not those of one linear layer"] * (bool(others) or not fits))
    return DenseModule(np.array(weight, np.float32), None if bias is None else np.array(bias, np.float32), name)


def _plain(place: Path, config: dict) -> None:
    """Raises UserError for a module that has other inputs or outputs than the text embedding."""
    names = {config.get(name, "sentence_embedding") for name in ("module_input_name", "module_output_name")}
    raise_problems(
        [f"{place}: a module of {', '.join(sorted(map(str, names)))} is not supported"]
        * (names - {None} != {"sentence_embedding"})
    )
    raise_problems([f"{place}: use_residual is not supported"] * bool(config.get("use_residual")))


def _lengths(directory: Path, found: dict) -> dict:
    config = _object(directory, LENGTHS, found)
    length, task = config.get("max_seq_length"), config.get("transformer_task", "feature-extraction")
    bad = length is not None and (type(length) is not int or length < 1)
    raise_problems([f"{directory / LENGTHS}: max_seq_length is {truncated_repr(length)}, expected 1 or more"] * bad)
    raise_problems(
        [f"{directory / LENGTHS}: transformer_task {truncated_repr(task)} is not supported"]
        * (task != "feature-extraction")
    )
    raise_problems(
        [f"{directory / LENGTHS}: processing_kwargs are not supported"] * bool(config.get("processing_kwargs"))
    )
    return {"max_length": length, "lower_case": config.get("do_lower_case") is True}


def _prompts(directory: Path, found: dict) -> dict:
    config = _object(directory, PROMPTS, found)
    kind = config.get("model_type", "SentenceTransformer")
    raise_problems(
        [f"{directory / PROMPTS}: a {truncated_repr(kind)} is not supported"] * (kind != "SentenceTransformer")
    )
    prompts, name = config.get("prompts") or {}, config.get("default_prompt_name")
    good = isinstance(prompts, dict) and all(isinstance(text, str) for text in prompts.values())
    raise_problems(
        [f"{directory / PROMPTS}: prompts are {truncated_repr(prompts)}, expected texts by name"] * (not good)
    )
    known = name is None or name in prompts
    raise_problems([f"{directory / PROMPTS}: there is no prompt {truncated_repr(name)}"] * (not known))
    return {"prompts": prompts, "default_prompt": name, "similarity": config.get("similarity_fn_name") or "cosine"}


def _object(directory: Path, name: str, found: dict, needed: bool = False) -> dict:
    """The JSON object in a file; {} if there is no file."""
    if not needed and not (directory / name).exists():
        return {}
    value = _read(directory, name, found)
    if not isinstance(value, dict):
        raise UserError(f"{directory / name}: expected an object, found {truncated_repr(value)}")
    return value


def _read(directory: Path, name: str, found: dict) -> Any:
    found["files"].append(name)
    try:
        return parse((directory / name).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{directory / name} cannot be read: {error}") from None


def embedding_files(base: SentenceEmbedding, pooling: str, normalize: bool, width: int, length: int) -> dict[str, str]:
    """Contents of the files, by name, for embeddings of `width` numbers and texts of at most `length` tokens.

    Prompts are those of `base`, without a default.
    """
    kinds = {"": "Transformer", "1_Pooling": "Pooling"} | ({"2_Normalize": "Normalize"} if normalize else {})
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    modes = {"word_embedding_dimension": width} | {name: mode == pooling for name, mode in MODES.items()}
    files = {
        MODULES: modules,
        "1_Pooling/config.json": modes | {"include_prompt": True},
        LENGTHS: {"max_seq_length": length, "do_lower_case": base.lower_case},
        PROMPTS: {"prompts": base.prompts, "default_prompt_name": None},
    }
    files |= {"2_Normalize/config.json": {}} if normalize else {}
    return {name: json.dumps(value, indent=2) + "\n" for name, value in files.items()}


def with_lower_case(
    tokenizer: "PreTrainedTokenizerFast", embedding: SentenceEmbedding | None
) -> "PreTrainedTokenizerFast":
    """The tokenizer, changed to lower-case texts if `embedding` asks for it."""
    if embedding is not None and embedding.lower_case:
        from tokenizers.normalizers import Lowercase, Sequence

        backend = tokenizer.backend_tokenizer
        backend.normalizer = Sequence([Lowercase(), *([backend.normalizer] if backend.normalizer else [])])
    return tokenizer
