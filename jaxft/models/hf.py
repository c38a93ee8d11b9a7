"""Reversible tables between a checkpoint's tensor names and the model's parameter names.

A `Row` names a module on both sides; its `How` lists the module's tensors and how their arrays correspond. The same
rows read a checkpoint and write one.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class Entry(NamedTuple):
    """One tensor of a checkpoint and the parameter(s) that it becomes."""

    theirs: str
    ours: tuple[str, ...]
    how: "How"
    aliases: tuple[str, ...] = ()  # older names of the same tensor


class How(Protocol):
    """How a module's arrays correspond. `split` and `join` are inverses and work on views: nothing is copied."""

    def tensors(self, theirs: str, ours: str) -> list[Entry]: ...
    def split(self, array: np.ndarray, widths: list[int]) -> list[np.ndarray]: ...
    def join(self, arrays: list[np.ndarray]) -> np.ndarray: ...


class Row(NamedTuple):
    """`theirs` is a module's name in the checkpoint, `ours` its name in jaxft; `{i}` stands for the layer's number."""

    theirs: str
    ours: str
    how: "How"

    def entries(self, layers: int) -> list[Entry]:
        if "{i}" not in self.ours:
            return self.how.tensors(self.theirs, self.ours)
        return [
            entry
            for i in range(layers)
            for entry in self.how.tensors(self.theirs.replace("{i}", str(i)), self.ours.replace("{i}", str(i)))
        ]


class _OneToOne:
    """A How whose tensors have one parameter each, stored alike."""

    def split(self, array, widths):
        return [array]

    def join(self, arrays):
        return arrays[0]


@dataclass(frozen=True)
class Renamed(_OneToOne):
    """Tensors stored alike under other names: pairs of (their suffix, our suffix); `older` are former suffixes."""

    pairs: tuple[tuple[str, str], ...]
    older: tuple[tuple[str, str], ...] = ()

    def tensors(self, theirs, ours):
        older = dict(self.older)
        return [Entry(theirs + a, (ours + b,), self, (theirs + older[a],) if a in older else ()) for a, b in self.pairs]


@dataclass(frozen=True)
class Transposed(_OneToOne):
    """A weight matrix that PyTorch keeps as (outputs, inputs)."""

    def tensors(self, theirs, ours):
        return [Entry(theirs + ".weight", (ours + ".kernel",), self), *LINEAR_BIAS.tensors(theirs, ours)]

    def split(self, array, widths):
        return [array.T]

    def join(self, arrays):
        return arrays[0].T


@dataclass(frozen=True)
class Fused:
    """Several linear maps kept as one (inputs, outputs of all) matrix: GPT-2's Conv1D query-key-value."""

    parts: tuple[str, ...]

    def tensors(self, theirs, ours):
        prefix, _, _ = ours.rpartition(".")
        return [
            Entry(f"{theirs}.{a}", tuple(f"{prefix}.{part}.{b}" for part in self.parts), self)
            for a, b in (("weight", "kernel"), ("bias", "bias"))
        ]

    def split(self, array, widths):
        return np.split(array, np.cumsum(widths)[:-1], axis=-1)

    def join(self, arrays):
        return np.concatenate(arrays, axis=-1)


LINEAR_BIAS = Renamed(((".bias", ".bias"),))
linear = Transposed()
conv1d = Renamed(((".weight", ".kernel"), (".bias", ".bias")))
embedding = Renamed(((".weight", ".embedding"),))
# TensorFlow-era BERT checkpoints call a LayerNorm's tensors gamma and beta.
norm = Renamed(((".weight", ".scale"), (".bias", ".bias")), ((".weight", ".gamma"), (".bias", ".beta")))
tensor = Renamed((("", ""),))
