"""HiRA (Huang et al. 2025, "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language Models")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.adapters.base import AdapterPart, StoredModule
from jaxft.adapters.targeted import Targeted, rank_problems
from jaxft.config.component import config
from jaxft.config.ranges import Count, ProperFraction
from jaxft.models.layers.basic import Adapter, Linear, param, remat
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.precision import upcast
from jaxft.tune.base import LinearMap


@config
class HiRA(Targeted):
    """The elementwise product of the weights and a low-rank matrix is the update, whose rank can be full.

    Updates are as small as the weights: it takes a larger learning rate than LoRA, 2e-3 to 1e-2.
    """

    rank: Count = 32  # of the matrix
    dropout: ProperFraction = 0.0  # on the input of the update

    lr_scale: ClassVar[float] = 10.0  # tune/learning_rate.py
    peft_type: ClassVar[str] = "HIRA"

    def part_for(self, one: LinearMap) -> "Hadamard":
        """See Targeted."""
        return Hadamard(self.rank, self.dropout)

    def part_problems(self, chosen: Sequence[LinearMap]) -> list[str]:
        """See Targeted."""
        return rank_problems(chosen, lambda one: self.rank)

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """See adapters/base.py."""
        return {**Targeted.settings(self, found, modules), "r": self.rank, "hira_dropout": self.dropout}

    @classmethod
    def part_of(cls, config: Mapping[str, Any], module: str, stored: Mapping[str, np.ndarray]) -> "Hadamard":
        """See adapters/base.py."""
        return Hadamard(len(stored["hira_A"]))


@dataclass(frozen=True)
class Hadamard(AdapterPart):
    """x -> x W + b + dropout(x) (W * (A B)) (Huang et al. 2025, eq. 3).

    PEFT has one rank for all modules, so that several maps in one matrix cannot be joined.
    """

    rank: int
    dropout: float = 0.0

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "HadamardLayer":
        return HadamardLayer(self, inputs, outputs, axes)

    def suffixes(self) -> Mapping[str, str]:
        return {"a": "hira_A", "b": "hira_B"}

    def untrained(self) -> "Hadamard":
        return Hadamard(self.rank)


class HadamardLayer(Adapter):
    """`a` (inputs, rank) and `b` (rank, outputs), which is 0 at first."""

    def __init__(self, part: Hadamard, inputs: int, outputs: int, axes: tuple[str | None, str | None]):
        self.part = part
        self.a = param((inputs, part.rank), (axes[0], None), "kernel", "kaiming_uniform", origin="adapter")
        self.b = param((part.rank, outputs), (None, axes[1]), "kernel", "zeros", origin="adapter")

    def __call__(self, x: jax.Array, linear: Linear, key: jax.Array | None) -> jax.Array:
        def update(x):  # recomputed, so that the backward pass keeps no matrix
            product = self.a[...].astype(x.dtype) @ self.b[...].astype(x.dtype)
            return x @ (linear.matrix(x.dtype) * product)

        change = remat(update, prevent_cse=linear.is_quantized)(dropout(x, self.part.dropout, key))
        return linear.plain(x) + change

    def merged(self, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        product = jnp.matmul(upcast(self.a[...]), upcast(self.b[...]), precision="highest")
        return upcast(kernel) * (1 + product), bias
