"""How the vector of a text is made of its tokens' vectors: the modules behind the model in a directory of
sentence-transformers (https://sbert.net), which is read and written here without that library.

    modules.json                        which modules there are: Transformer, Pooling, then Dense and Normalize
    1_Pooling/config.json               how the tokens' vectors become one
    2_Dense/                            a linear layer, its activation and its weights
    sentence_bert_config.json           max_seq_length and do_lower_case
    config_sentence_transformers.json   prompts, which are put in front of texts
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.special import erf, expit

from jaxft.host.strict_json import parse
from jaxft.models.checkpoint.tensors import open_tensors
from jaxft.problems import UserError, raise_problems, truncated_repr

# Pooling modes, in the order in which several are put together, by their names in older files.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "Sigmoid": expit,
    "SiLU": lambda x: x * expit(x),
    "GELU": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
}
MODULES, PROMPTS, LENGTHS = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model")
BEHIND = ("Dense", "Normalize")  # modules that may follow the pooling


@dataclass(frozen=True)
class Dense:
    """x @ weight.T + bias, then the activation; weight (out, in) and bias (out,) float32."""

    weight: np.ndarray
    bias: np.ndarray | None
    activation: str

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        made = self.weight @ vector + (0 if self.bias is None else self.bias)
        return ACTIVATIONS[self.activation](made)


@dataclass(frozen=True)
class Normalize:
    """The vector of length 1; that of length 0 stays as it is."""

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


@dataclass(frozen=True)
class SentenceEmbedding:
    """What a directory says; without its files the mean of the tokens' vectors."""

    directory: Path
    pooling: tuple[str, ...] = ("mean",)  # several: one behind the other
    include_prompt: bool = True  # whether the prompt's tokens take part in the pooling
    layers: tuple[Dense | Normalize, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None  # its name
    max_length: int | None = None  # tokens
    lower_case: bool = False  # texts become lower case before the tokenizer reads them
    files: tuple[str, ...] = ()  # that say it, by their names in the directory

    def __call__(self, hidden: np.ndarray, skip: int = 0) -> np.ndarray:
        """The vector of a text from its tokens' vectors (tokens, width), of which the first `skip` are a prompt's."""
        vector = np.concatenate([_pooled(hidden, mode, 0 if self.include_prompt else skip) for mode in self.pooling])
        for layer in self.layers:
            vector = layer(vector)
        return vector

    def prompt(self, name: str | None) -> str:
        """The prompt with this name; None: the default one, "": none. Raises UserError for one that is not there."""
        name = self.default_prompt if name is None else name
        if not name:
            return ""
        if name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise UserError(f"there is no prompt {truncated_repr(name)}: {self.directory} has {known}")
        return self.prompts[name]

    def width_problems(self, width: int) -> list[str]:
        """What does not fit a model of this width."""
        width = width * len(self.pooling)
        for layer in self.layers:
            if isinstance(layer, Dense):
                if layer.weight.shape[1] != width:
                    return [f"{self.directory}: a Dense module takes {layer.weight.shape[1]} numbers, not {width}"]
                width = len(layer.weight)
        return []

    def contents(self) -> dict[str, bytes]:
        """Its files, to be written with the model."""
        return {name: (self.directory / name).read_bytes() for name in self.files}


def _pooled(hidden: np.ndarray, mode: str, skip: int) -> np.ndarray:
    kept = hidden[skip:]
    if not len(kept):  # as there: nothing but the prompt
        kept = hidden[:1] if mode == "cls" else hidden[-1:] if mode in ("lasttoken", "max") else np.zeros_like(hidden)
    if mode == "cls":
        return kept[0]
    if mode == "lasttoken":
        return kept[-1]
    if mode == "max":
        return kept.max(0)
    if mode == "weightedmean":
        places = np.arange(skip + 1, skip + 1 + len(kept), dtype=np.float32)
        return places @ kept / places.sum()
    return kept.sum(0) / (len(kept) if mode == "mean" else np.sqrt(len(kept), dtype=np.float32))


def read_embedding(directory: Path) -> SentenceEmbedding:
    """What the directory says. Raises UserError that names what is not supported."""
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
    """(kind, folder) of the modules behind the model."""
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
    known = ("Transformer", "Pooling", *BEHIND)
    raise_problems(
        f"{directory / MODULES}: the module {truncated_repr(kind)} is not supported, only {', '.join(known)}"
        for kind in kinds
        if kind not in known
    )
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= set(BEHIND) or listed[0]["path"]:
        raise UserError(
            f"{directory / MODULES}: the modules {', '.join(kinds)} are not supported: expected a Transformer in the "
            "directory itself, a Pooling, and behind them Dense and Normalize"
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


def _dense(place: Path, config: dict) -> Dense:
    _plain(place, config)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    name = str(activation).rpartition(".")[2]
    if not str(activation).startswith("torch.nn.") or name not in ACTIVATIONS:
        raise UserError(
            f"{place}: the activation {truncated_repr(activation)} is not supported, only {', '.join(ACTIVATIONS)}"
        )
    tensors = open_tensors(place)
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    wanted = (config.get("out_features"), config.get("in_features"))
    raise_problems([f"{place} has no tensor linear.weight {wanted}"] * (weight is None or weight.shape != wanted))
    others = sorted(tensors.keys() - {"linear.weight", "linear.bias"})
    fits = bias is None if config.get("bias") is False else bias is not None and bias.shape == wanted[:1]
    raise_problems([f"{place}: its tensors are not those of one linear layer"] * (bool(others) or not fits))
    return Dense(np.array(weight, np.float32), None if bias is None else np.array(bias, np.float32), name)


def _plain(place: Path, config: dict) -> None:
    """Raises UserError for a module that does more than map the vector of a text."""
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
    return {"prompts": prompts, "default_prompt": name}


def _object(directory: Path, name: str, found: dict, needed: bool = False) -> dict:
    """The object in a file, {} where there is none."""
    if not needed and not (directory / name).exists():
        return {}
    value = _read(directory, name, found)
    if not isinstance(value, dict):
        raise UserError(f"{directory / name}: expected an object, found {truncated_repr(value)}")
    return value


def _read(directory: Path, name: str, found: dict):
    found["files"].append(name)
    try:
        return parse((directory / name).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{directory / name} cannot be read: {error}") from None


def embedding_files(base: SentenceEmbedding, pooling: str, normalize: bool, width: int, length: int) -> dict[str, str]:
    """The files that say how vectors of `width` numbers are made, name to text. Prompts are those of `base`, none of
    them the default."""
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


def lowered(tokenizer, embedding: SentenceEmbedding | None):
    """The tokenizer, which makes texts lower case first where the directory asks for it."""
    if embedding is not None and embedding.lower_case:
        from tokenizers.normalizers import Lowercase, Sequence

        backend = tokenizer.backend_tokenizer
        backend.normalizer = Sequence([Lowercase(), *([backend.normalizer] if backend.normalizer else [])])
    return tokenizer
