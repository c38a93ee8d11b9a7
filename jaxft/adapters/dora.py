"""DoRA (Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.adapters.base import Join, Pieces, StoredModule, Tensors
from jaxft.adapters.lora import LoRA, LowRank, LowRankLayer
from jaxft.config.component import config
from jaxft.models.layers.basic import Linear, param
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.precision import upcast
from jaxft.tune.base import LinearMap

MAGNITUDE = "lora_magnitude_vector"


@config
class DoRA(LoRA):
    """LoRA for the direction of each output's weights, and a trained vector for their magnitude.

    It takes the learning rates of LoRA, and a step costs more: the weights' norms are computed in each.
    """

    lr_scale: ClassVar[float] = 4.0  # tune/learning_rate.py

    def part_for(self, one: LinearMap) -> "Decomposed":
        """See Targeted."""
        return Decomposed(self.rank_of(one), self.scale_of(one), self.dropout, self.lr_ratio)

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """See adapters/base.py."""
        return {**LoRA.settings(self, found, modules), "use_dora": True}

    @classmethod
    def part_of(cls, config: Mapping[str, Any], module: str, stored: Mapping[str, np.ndarray]) -> LowRank:
        """See adapters/base.py."""
        plain = LoRA.part_of(config, module, stored)
        return Decomposed(plain.rank, plain.scale)


@dataclass(frozen=True)
class Decomposed(LowRank):
    """x -> magnitude * x V / |V| + b, V = W + scale * A B (Liu et al. 2024, eq. 5); |V| is of each output, and constant
    in the gradient (section 4.3)."""

    starts_from_kernel: ClassVar[bool] = True

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "DecomposedLayer":
        return DecomposedLayer(self, inputs, outputs, axes)

    def suffixes(self) -> Mapping[str, str]:
        return {**LowRank.suffixes(self), "magnitude": MAGNITUDE}

    def start(self, kernel: np.ndarray) -> Tensors:
        """The magnitude of the kernel's columns."""
        return {"magnitude": np.linalg.norm(kernel.astype(np.float32), axis=0)}

    def joined(self, tensors: Sequence[Tensors], join: Join) -> StoredModule:
        """As LoRA's, and the magnitudes of all outputs."""
        part, arrays = LowRank.joined(self, tensors, join)
        return StoredModule(part, arrays | {MAGNITUDE: join([each[MAGNITUDE] for each in tensors])})

    def parted(self, stored: StoredModule, pieces: Pieces, count: int) -> list[Tensors] | None:
        """As LoRA's, and the magnitudes of each map's outputs."""
        plain = LowRank.parted(self, stored, pieces, count)
        own = pieces(stored.tensors[MAGNITUDE])
        return plain and [each | {MAGNITUDE: sizes} for each, sizes in zip(plain, own, strict=True)]


class DecomposedLayer(LowRankLayer):
    """`a` (inputs, rank), `b` (rank, outputs), and `magnitude` (outputs)."""

    def __init__(self, part: Decomposed, inputs: int, outputs: int, axes: tuple[str | None, str | None]):
        super().__init__(part, inputs, outputs, axes)
        self.magnitude = param((outputs,), (axes[1],), "norm", "ones", origin="adapter")

    def __call__(self, x: jax.Array, linear: Linear, key: jax.Array | None) -> jax.Array:
        norm = jax.lax.stop_gradient(_norm(upcast(linear.matrix(x.dtype)) + self.product()))
        factor = (upcast(self.magnitude[...]) / norm).astype(x.dtype)
        if key is None or self.part.dropout == 0:
            y = (linear.product(x) + self.update(x)) * factor
        else:  # of the change alone
            dropped = dropout(x, self.part.dropout, key)
            y = linear.product(x) + linear.product(dropped) * (factor - 1) + self.update(dropped) * factor
        return y if linear.bias is None else y + linear.bias[...].astype(x.dtype)

    def merged(self, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        direction = upcast(kernel) + self.product()
        return direction * (upcast(self.magnitude[...]) / _norm(direction)), bias


def _norm(matrix: jax.Array) -> jax.Array:
    """The norm of each column."""
    return jnp.sqrt(jnp.sum(matrix * matrix, 0))
