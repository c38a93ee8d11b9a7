"""Text embeddings from hidden states, as the modules of sentence-transformers (https://sbert.net) compute them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.special import erf, expit

from jaxft.problems import UserError, truncated_repr

NUMPY_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "Sigmoid": expit,
    "SiLU": lambda x: x * expit(x),
    "GELU": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
}


@dataclass(frozen=True)
class DenseModule:
    """x @ weight.T + bias, then the activation; weight (out, in) and bias (out,) float32."""

    weight: np.ndarray
    bias: np.ndarray | None
    activation: str

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        return NUMPY_ACTIVATIONS[self.activation](self.weight @ vector + (0 if self.bias is None else self.bias))


@dataclass(frozen=True)
class Normalize:
    """Scales a vector to length 1; a vector of zeros stays zero."""

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


@dataclass(frozen=True)
class SentenceEmbedding:
    """How a directory computes text embeddings; without its files, as the mean of the hidden states."""

    directory: Path
    pooling: tuple[str, ...] = ("mean",)  # several are concatenated
    include_prompt: bool = True  # whether the pooling includes the prompt's tokens
    layers: tuple[DenseModule | Normalize, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None  # the name of one of `prompts`
    similarity: str = "cosine"  # of two embeddings: similarity_fn_name of config_sentence_transformers.json
    max_length: int | None = None  # tokens
    lower_case: bool = False  # whether texts are lower-cased before tokenization
    files: tuple[str, ...] = ()  # paths in the directory, of these settings

    def __call__(self, hidden: np.ndarray, skip: int = 0) -> np.ndarray:
        """The embedding of a text from its hidden states (tokens, width); the first `skip` tokens are a prompt."""
        vector = np.concatenate([_pooled(hidden, mode, 0 if self.include_prompt else skip) for mode in self.pooling])
        for layer in self.layers:
            vector = layer(vector)
        return vector

    def prompt(self, name: str | None) -> str:
        """The text of a prompt; None: the default prompt, "": no prompt. Raises UserError for an unknown name."""
        name = self.default_prompt if name is None else name
        if not name:
            return ""
        if name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise UserError(f"there is no prompt {truncated_repr(name)}: {self.directory} has {known}")
        return self.prompts[name]

    @property
    def query_prompt(self) -> str:
        """The name of the prompt before queries of a search, "" for none; the default prompt is not used."""
        return "query" if "query" in self.prompts else ""

    @property
    def document_prompt(self) -> str:
        """The name of the prompt before the texts that are searched, "" for none, as `encode_document` documents it."""
        return next((name for name in ("document", "passage", "corpus") if name in self.prompts), "")

    def width_problems(self, width: int) -> list[str]:
        """Modules whose input size does not fit a model of this width."""
        width = width * len(self.pooling)
        for layer in self.layers:
            if isinstance(layer, DenseModule):
                if layer.weight.shape[1] != width:
                    return [f"{self.directory}: a Dense module takes {layer.weight.shape[1]} numbers, not {width}"]
                width = len(layer.weight)
        return []

    def contents(self) -> dict[str, bytes]:
        """The files, by name, to write with an exported model."""
        return {name: (self.directory / name).read_bytes() for name in self.files}


def _pooled(hidden: np.ndarray, mode: str, skip: int) -> np.ndarray:
    kept = hidden[skip:]
    if not len(kept):  # a prompt without a text, as sentence-transformers treats it
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
