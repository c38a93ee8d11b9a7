"""LoKr (Edalati et al. 2022, "KronA: Parameter Efficient Tuning with Kronecker Adapter", with low-rank factors as in
LyCORIS)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.adapters.base import AdapterPart, StoredModule
from jaxft.adapters.targeted import Ranked, Targeted, alpha_settings, rank_settings
from jaxft.adapters.targets import pattern_value
from jaxft.config.component import config
from jaxft.config.ranges import Count
from jaxft.models.layers.basic import Adapter, Linear, param
from jaxft.models.layers.precision import upcast
from jaxft.tune.base import LinearMap

KAIMING = "kaiming_uniform"


@config
class LoKr(Ranked):
    """The Kronecker product of a small matrix and a low-rank one is the update.

    It trains fewer numbers than LoRA, and takes its learning rates, 1e-3 to 5e-3.
    """

    decompose_both: bool = False  # whether the small matrix is low-rank as well
    decompose_factor: Count | None = None  # the width of the small matrix; None: near the square root of the map's

    lr_scale: ClassVar[float] = 10.0  # tune/learning_rate.py
    peft_type: ClassVar[str] = "LOKR"
    reads_transposed: ClassVar[bool] = False

    def part_for(self, one: LinearMap) -> "Kronecker":
        """See Targeted."""
        rank = self.rank_of(one)
        inputs, outputs = (factors(width, self.decompose_factor) for width in (one.inputs, one.outputs))
        low = (self.decompose_both and rank < max(inputs[0], outputs[0]) / 2, rank < max(inputs[1], outputs[1]) / 2)
        return Kronecker(rank, self.scale_of(one), outputs, inputs, *low)

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """See adapters/base.py."""
        parts = {name: one.part for name, one in found.items() if isinstance(one.part, Kronecker)}
        return {
            **Targeted.settings(self, found, modules),
            **rank_settings({name: part.rank for name, part in parts.items()}),
            **alpha_settings({name: part.scale * part.rank for name, part in parts.items()}, "alpha"),
            "decompose_both": self.decompose_both,
            "decompose_factor": self.decompose_factor or -1,
        }

    @classmethod
    def part_of(cls, config: Mapping[str, Any], module: str, stored: Mapping[str, np.ndarray]) -> "Kronecker":
        """See adapters/base.py."""
        rank = int(pattern_value(config.get("rank_pattern") or {}, module, config["r"]))
        alpha = pattern_value(config.get("alpha_pattern") or {}, module, config["alpha"])
        low = ["lokr_w1" not in stored, "lokr_w2" not in stored]
        shapes = [
            (len(stored[f"lokr_{w}_a"]), stored[f"lokr_{w}_b"].shape[1]) if is_low else stored[f"lokr_{w}"].shape
            for w, is_low in zip(("w1", "w2"), low, strict=True)
        ]
        (out1, in1), (out2, in2) = shapes
        return Kronecker(rank, alpha / rank, (out1, out2), (in1, in2), *low)


@dataclass(frozen=True)
class Kronecker(AdapterPart):
    """x -> x (W + scale * kron(W1, W2)^T) + b, W1 and W2 (outputs, inputs), each low-rank or full."""

    rank: int
    scale: float
    outputs: tuple[int, int]  # of W1 and W2
    inputs: tuple[int, int]
    low1: bool
    low2: bool

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "KroneckerLayer":
        if (inputs, outputs) != (self.inputs[0] * self.inputs[1], self.outputs[0] * self.outputs[1]):
            raise ValueError(f"the factors {self.inputs} and {self.outputs} are not those of {inputs} x {outputs}")
        return KroneckerLayer(self)

    def suffixes(self) -> Mapping[str, str]:
        first = ("w1_a", "w1_b") if self.low1 else ("w1",)
        second = ("w2_a", "w2_b") if self.low2 else ("w2",)
        return {name: f"lokr_{name}" for name in (*first, *second)}


class KroneckerLayer(Adapter):
    """`w1` and `w2` (inputs, outputs), or the product of `w1_b` (inputs, rank) and `w1_a` (rank, outputs). W1 is 0 at
    first."""

    def __init__(self, part: Kronecker):
        self.part = part
        (in1, in2), (out1, out2), rank = part.inputs, part.outputs, part.rank
        self.w1 = _factor(in1, out1, "zeros", not part.low1)
        self.w1_a, self.w1_b = _factor(rank, out1, "zeros", part.low1), _factor(in1, rank, KAIMING, part.low1)
        self.w2 = _factor(in2, out2, KAIMING, not part.low2)
        self.w2_a, self.w2_b = _factor(rank, out2, KAIMING, part.low2), _factor(in2, rank, KAIMING, part.low2)

    def factors(self) -> tuple[jax.Array, jax.Array]:
        """W1 and W2, float32 (inputs, outputs)."""

        def product(b: nnx.Param, a: nnx.Param) -> jax.Array:
            return jnp.matmul(upcast(b[...]), upcast(a[...]), precision="highest")

        return (
            product(self.w1_b, self.w1_a) if self.part.low1 else upcast(self.w1[...]),
            product(self.w2_b, self.w2_a) if self.part.low2 else upcast(self.w2[...]),
        )

    def __call__(self, x: jax.Array, linear: Linear, key: jax.Array | None) -> jax.Array:
        w1, w2 = (factor.astype(x.dtype) for factor in self.factors())
        update = jnp.einsum("...ij,io,jp->...op", x.reshape(*x.shape[:-1], *self.part.inputs), w1, w2)
        y = linear.plain(x)
        return y + update.reshape(y.shape) * jnp.asarray(self.part.scale, x.dtype)

    def merged(self, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        return upcast(kernel) + self.part.scale * jnp.kron(*self.factors()), bias


def _factor(inputs: int, outputs: int, init: str, there: bool) -> Any:
    return param((inputs, outputs), (None, None), "kernel", init, origin="adapter") if there else nnx.data(None)


def factors(width: int, factor: int | None) -> tuple[int, int]:
    """(m, n) with m n = width and m <= n, m as near as possible to `factor`, None: to the square root of the width; as
    in LyCORIS."""
    if factor is not None and width % factor == 0:
        return factor, width // factor
    small = max(m for m in range(1, math.isqrt(width) + 1) if width % m == 0 and m <= (factor or width))
    return small, width // small
