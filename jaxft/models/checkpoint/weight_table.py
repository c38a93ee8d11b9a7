"""Reversible tables between a checkpoint's tensor names and the model's parameter names.

A `WeightRule` names a module on both sides; its `Layout` lists the module's tensors and how their arrays correspond.
The same rules read a checkpoint and write one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.heads import KINDS, Head
from jaxft.models.spec import Spec

# (pattern, replacement) as re.sub takes them, applied one after the other.
Renames = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


class HeadRules(NamedTuple):
    """A head and its weights."""

    part: Head | None  # None: the model ends with the backbone
    rules: Sequence["WeightRule"] = ()
    ties: Mapping[str, str] = {}  # tensors that repeat others: name -> the name of the tensor that is read


class OneSided(NamedTuple):
    """A head on one side of an encoder-decoder; the other side is left out."""

    head: str
    side: Literal["encoder", "decoder"]
    tokens: str | None  # the token embeddings' module in the checkpoint; None: the side has none


@dataclass(frozen=True)
class Family:
    """A model family: its architecture, its weights and its heads, each as a function of config.json."""

    prefix: str  # of the backbone's tensors in a checkpoint with a head
    architectures: dict[str, str]  # head -> transformers' class
    spec: Callable[[ConfigReader], Spec]
    rules: Callable[[ConfigReader], list["WeightRule"]]  # of the backbone, without the prefix
    head: Callable[[ConfigReader, str, int], HeadRules]  # (config, head, number of classes)
    buffers: tuple[str, ...] = ()  # patterns of tensors that are not parameters
    other_heads: tuple[str, ...] = ()  # patterns of other heads' tensors, which a checkpoint may have as well
    prefixes: tuple[tuple[str, str], ...] = ()  # (head, its prefix) where that is not `prefix`
    one_sided: tuple[OneSided, ...] = ()
    modules: Renames = ()  # from the names of tensors to those of parameters in transformers

    @property
    def all_prefixes(self) -> list[str]:
        """Every prefix that tensors of the backbone may have; the usual one first."""
        return [self.prefix, *dict(self.prefixes).values()]

    def base_name(self, name: str) -> str:
        """A tensor's name without the backbone's prefix, whatever head it was saved with."""
        found = [prefix for prefix in self.all_prefixes if name.startswith(prefix)]
        return name.removeprefix(max(found, key=len, default=""))


# The heads that transformers has for most encoders.
ENCODER_HEADS = "none sequence-classification token-classification question-answering multiple-choice masked-lm"


def architectures(name: str, heads: str) -> dict[str, str]:
    """Head -> transformers' class; `heads` are names separated by spaces."""
    return {head: KINDS[head].format(name) for head in heads.split()}


class TensorMap(NamedTuple):
    """One tensor of a checkpoint and the parameter or parameters that it becomes."""

    hf: str
    jaxft: tuple[str, ...]
    layout: "Layout"
    aliases: tuple[str, ...] = ()  # older names of the same tensor
    expert: int | None = None  # index into the parameter's first axis, if the parameter stacks several tensors

    @property
    def is_linear(self) -> bool:
        """Whether the tensor is the matrix of a linear map, or of several."""
        return self.layout.outputs_axis is not None and self.hf.endswith(".weight")


class Layout(Protocol):
    """How a module's arrays correspond. `split` and `join` are inverses; where they can, they return views."""

    @property
    def outputs_axis(self) -> int | None:
        """The axis of the outputs in a tensor that is the matrix of a linear map, as adapters see it (0: outputs x
        inputs); None: no such matrix."""
        ...

    def tensors(self, hf: str, jaxft: str) -> list[TensorMap]:
        """The tensors of a module, by its names on both sides."""
        ...

    def split(self, array: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
        """The parameters of a tensor; `widths` are the sizes of their last axes."""
        ...

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The tensor of these parameters."""
        ...


class WeightRule(NamedTuple):
    """`hf` is a module's name in the checkpoint, `jaxft` its name in jaxft; `{i}` stands for the layer's number.

    Names in jaxft of an encoder in front of a decoder begin with `encoder.`.
    """

    hf: str
    jaxft: str
    layout: Layout

    def tensor_maps(self, layers: int, encoder_layers: int = 0) -> list[TensorMap]:
        """The tensors of this rule in all layers."""
        if "{i}" not in self.jaxft:
            return self.layout.tensors(self.hf, self.jaxft)
        layers = encoder_layers if self.jaxft.startswith("encoder.") else layers
        return [
            tensor_map
            for i in range(layers)
            for tensor_map in self.layout.tensors(self.hf.replace("{i}", str(i)), self.jaxft.replace("{i}", str(i)))
        ]


class _OneToOne:
    """A layout whose tensors are one parameter each, stored alike."""

    @property
    def outputs_axis(self) -> int | None:
        return None

    def split(self, array: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
        return [array]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0]


@dataclass(frozen=True)
class Renamed(_OneToOne):
    """Tensors stored alike under other names: pairs of (suffix in the checkpoint, suffix in jaxft).

    `older` are pairs of (suffix in the checkpoint, its former suffix).
    """

    pairs: tuple[tuple[str, str], ...]
    older: tuple[tuple[str, str], ...] = ()

    @property
    def outputs_axis(self) -> int | None:
        """Of a matrix that is stored as jaxft holds it; norms and embeddings have none."""
        return 1 if (".weight", ".kernel") in self.pairs else None

    def tensors(self, hf: str, jaxft: str) -> list[TensorMap]:
        older = dict(self.older)
        return [TensorMap(hf + a, (jaxft + b,), self, (hf + older[a],) if a in older else ()) for a, b in self.pairs]


@dataclass(frozen=True)
class Transposed(_OneToOne):
    """A linear map, whose weight PyTorch stores as (outputs, inputs)."""

    @property
    def outputs_axis(self) -> int | None:
        return 0

    def tensors(self, hf: str, jaxft: str) -> list[TensorMap]:
        return [TensorMap(hf + ".weight", (jaxft + ".kernel",), self), *LINEAR_BIAS.tensors(hf, jaxft)]

    def split(self, array: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
        return [array.T]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0].T


@dataclass(frozen=True)
class Fused:
    """Several linear maps stored as one matrix: (all outputs, inputs) if `transposed`, else (inputs, all outputs).

    The outputs are divided into `groups`; each group holds an equal share of every map's outputs, in order of `names`.
    """

    names: tuple[str, ...]
    transposed: bool = True
    groups: int = 1

    @property
    def outputs_axis(self) -> int | None:
        return 0 if self.transposed else 1

    def tensors(self, hf: str, jaxft: str) -> list[TensorMap]:
        prefix, _, _ = jaxft.rpartition(".")
        return [
            TensorMap(f"{hf}.{a}", tuple(f"{prefix}.{name}.{b}" for name in self.names), self)
            for a, b in (("weight", "kernel"), ("bias", "bias"))
        ]

    def split(self, array: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
        array = array.T if self.transposed else array
        if array.shape[-1] != sum(widths):
            return [array] * len(widths)  # all of the wrong shape, which the caller reports
        grouped = array.reshape(*array.shape[:-1], self.groups, -1)
        ends = np.cumsum([width // self.groups for width in widths])[:-1]
        return [piece.reshape(*array.shape[:-1], -1) for piece in np.split(grouped, ends, axis=-1)]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        grouped = [array.reshape(*array.shape[:-1], self.groups, -1) for array in arrays]
        array = np.concatenate(grouped, axis=-1).reshape(*arrays[0].shape[:-1], -1)
        return array.T if self.transposed else array


@dataclass(frozen=True)
class StackedExperts(_OneToOne):
    """A linear map of each of `count` experts, stored as one tensor each; `{e}` stands for the expert's number."""

    count: int

    def tensors(self, hf: str, jaxft: str) -> list[TensorMap]:
        name = hf + ".weight"
        return [TensorMap(name.replace("{e}", str(e)), (jaxft + ".kernel",), self, expert=e) for e in range(self.count)]

    def split(self, array: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
        return [array.T]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0].T


@dataclass(frozen=True)
class Interleaved:
    """Linear maps whose outputs alternate in one tensor: pairs of (suffix in the checkpoint, suffix in jaxft)."""

    names: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def outputs_axis(self) -> int | None:
        return None

    def tensors(self, hf: str, jaxft: str) -> list[TensorMap]:
        prefix, _, _ = jaxft.rpartition(".")
        return [TensorMap(hf + a, tuple(f"{prefix}.{name}{b}" for name in self.names), self) for a, b in self.pairs]

    def split(self, array: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
        return [array[..., i :: len(self.names)] for i in range(len(self.names))]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(arrays, -1).reshape(*arrays[0].shape[:-1], -1)


@dataclass(frozen=True)
class Unsqueezed(_OneToOne):
    """A tensor stored with `axes` leading axes of length 1."""

    axes: int

    def tensors(self, hf: str, jaxft: str) -> list[TensorMap]:
        return [TensorMap(hf, (jaxft,), self)]

    def split(self, array: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
        return [array.reshape(array.shape[self.axes :]) if array.shape[: self.axes] == (1,) * self.axes else array]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0][(None,) * self.axes]


@dataclass(frozen=True)
class ConvPatch(Transposed):
    """A linear map of image patches, stored as a convolution: (outputs, channels, height, width)."""

    shape: tuple[int, int, int]  # (channels, height, width)

    @property
    def outputs_axis(self) -> int | None:
        return None

    def split(self, array: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
        return [array.reshape(len(array), -1).T]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0].T.reshape(-1, *self.shape)


LINEAR_BIAS = Renamed(((".bias", ".bias"),))
linear = Transposed()
conv1d = Renamed(((".weight", ".kernel"), (".bias", ".bias")))
embedding = Renamed(((".weight", ".embedding"),))
# TensorFlow-era BERT checkpoints call a LayerNorm's tensors gamma and beta.
norm = Renamed(((".weight", ".scale"), (".bias", ".bias")), ((".weight", ".gamma"), (".bias", ".beta")))
tensor = Renamed((("", ""),))
rel_bias = Renamed(((".weight", ".scores"),))
