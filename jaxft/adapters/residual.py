"""LoRA that starts as a part of the weights, the rest of which is frozen."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.adapters.base import Pieces, StoredModule, Tensors
from jaxft.adapters.lora import LowRank, LowRankLayer
from jaxft.models.layers.basic import param
from jaxft.models.layers.precision import upcast


@dataclass(frozen=True)
class Residual(LowRank):
    """x -> x (W - scale * A0 B0) + b + scale * dropout(x) A B, with A = A0 and B = B0 at first.

    W stays as it is, so that adapters of several methods share one base: PEFT's file has the update A B - A0 B0, of
    twice the rank.
    """

    starts_from_kernel: ClassVar[bool] = True

    @abstractmethod
    def factors(self, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A0 (inputs, rank) and B0 (rank, outputs)."""

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "ResidualLayer":
        return ResidualLayer(self, inputs, outputs, axes)

    def start(self, kernel: np.ndarray) -> Tensors:
        """Both pairs of factors."""
        a, b = (np.ascontiguousarray(factor, np.float32) for factor in self.factors(kernel))
        return {"a": a, "b": b, "a0": a, "b0": b}

    def parted(self, stored: StoredModule, pieces: Pieces, count: int) -> list[Tensors] | None:
        """As LoRA's; PEFT's start of several maps in one matrix is not that of each."""
        return super().parted(stored, pieces, count) if count == 1 else None

    def stored(self, values: Mapping[str, np.ndarray]) -> Tensors:
        """As a LoRA of twice the rank."""
        a = np.concatenate([values["a"], values["a0"]], 1)
        b = np.concatenate([values["b"], -values["b0"]])
        return {"lora_A.weight": a.T, "lora_B.weight": b.T}


class ResidualLayer(LowRankLayer):
    """`a` and `a0` (inputs, rank), `b` and `b0` (rank, outputs); `a0` and `b0` are fixed."""

    def __init__(self, part: Residual, inputs: int, outputs: int, axes: tuple[str | None, str | None]):
        super().__init__(part, inputs, outputs, axes)
        self.a0 = param((inputs, part.rank), (axes[0], None), "kernel", "zeros", fixed=True, origin="adapter")
        self.b0 = param((part.rank, outputs), (None, axes[1]), "kernel", "zeros", fixed=True, origin="adapter")

    def update(self, x: jax.Array) -> jax.Array:
        start = x @ self.a0[...].astype(x.dtype) @ self.b0[...].astype(x.dtype)
        return super().update(x) - start * jnp.asarray(self.part.scale, x.dtype)

    def product(self) -> jax.Array:
        start = jnp.matmul(upcast(self.a0[...]), upcast(self.b0[...]), precision="highest")
        return super().product() - self.part.scale * start
