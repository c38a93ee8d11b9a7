"""OFT (Qiu et al. 2023, "Controlling Text-to-Image Diffusion by Orthogonal Finetuning"), on the inputs as in OFTv2 (Qiu
et al. 2025, "Orthogonal Finetuning Made Scalable")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.adapters.base import AdapterPart, StoredModule, Tensors
from jaxft.adapters.targeted import Targeted
from jaxft.config.component import config
from jaxft.config.ranges import Count, NonNegativeInt
from jaxft.models.layers.basic import Adapter, Linear, param
from jaxft.models.layers.precision import upcast
from jaxft.tune.base import LinearMap


@config
class OFT(Targeted):
    """Rotations of blocks of a map's inputs train; angles between the weights of its outputs stay as they are.

    It takes larger learning rates than LoRA, 2e-3 to 1e-2.
    """

    block_size: Count = 32  # inputs that a rotation mixes; the nearest divisor of a map's inputs is taken
    block_share: bool = False  # whether all blocks of a map have one rotation
    neumann_terms: NonNegativeInt = 5  # of the series for the Cayley transform's inverse; 0: the exact inverse

    lr_scale: ClassVar[float] = 10.0  # tune/learning_rate.py
    peft_type: ClassVar[str] = "OFT"
    unread: ClassVar[Mapping[str, Any]] = {"coft": False}
    reads_transposed: ClassVar[bool] = False

    def part_for(self, one: LinearMap) -> "Rotated":
        """See Targeted."""
        size = nearest_divisor(one.inputs, self.block_size)
        return Rotated(size, 1 if self.block_share else one.inputs // size, self.neumann_terms)

    def part_problems(self, chosen: Sequence[LinearMap]) -> list[str]:
        """See Targeted: a block of one input has no rotation."""
        if self.neumann_terms in (1, 2, 3):
            return [f"tune.neumann_terms is {self.neumann_terms}: use 4 or more, or 0 for the exact inverse"]
        return [
            f"tune.block_size is {self.block_size}: the {one.inputs} inputs of {one.module} have blocks of one then, "
            "without a rotation: use another size, or leave the map out (tune.exclude_modules)"
            for one in chosen
            if nearest_divisor(one.inputs, self.block_size) == 1
        ][:1]

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """See adapters/base.py."""
        return {
            **Targeted.settings(self, found, modules),
            "r": 0,
            "oft_block_size": self.block_size,
            "block_share": self.block_share,
            "use_cayley_neumann": self.neumann_terms > 0,
            "num_cayley_neumann_terms": self.neumann_terms or 5,
        }

    @classmethod
    def part_of(cls, config: Mapping[str, Any], module: str, stored: Mapping[str, np.ndarray]) -> "Rotated":
        """See adapters/base.py. A block of n inputs has n (n - 1) / 2 angles."""
        blocks, angles = stored["oft_R.weight"].shape
        size = round((1 + (1 + 8 * angles) ** 0.5) / 2)
        terms = config.get("num_cayley_neumann_terms", 5) if config.get("use_cayley_neumann", True) else 0
        terms = 4 if terms == 3 else terms  # PEFT computes the same for both
        return Rotated(size, blocks, terms)


@dataclass(frozen=True)
class Rotated(AdapterPart):
    """x -> (x R) W + b, R of blocks (I - Q)(I + Q)^-1, Q skew-symmetric (Qiu et al. 2023, section 3.3).

    With n Neumann terms the block is I + 2 (Q + ... + Q^(n-2)) + Q^(n-1), which is nearly the inverse of the exact one:
    PEFT's Q has another sign there.
    """

    size: int
    blocks: int  # 1: shared by all
    terms: int

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "RotatedLayer":
        if inputs % self.size or self.blocks not in (1, inputs // self.size):
            raise ValueError(f"{self.blocks} blocks of {self.size} are not those of {inputs} inputs")
        return RotatedLayer(self)

    def stored(self, values: Mapping[str, np.ndarray]) -> Tensors:
        """As it is: (blocks, angles)."""
        return {"oft_R.weight": values["angles"]}

    def values(self, stored: Mapping[str, np.ndarray]) -> Tensors:
        return {"angles": stored["oft_R.weight"]}


class RotatedLayer(Adapter):
    """`angles` (blocks, size (size - 1) / 2): the upper triangle of Q, row by row, which is 0 at first."""

    def __init__(self, part: Rotated):
        self.part = part
        angles = part.size * (part.size - 1) // 2
        self.angles = param((part.blocks, angles), (None, None), "other", "zeros", origin="adapter")

    def rotations(self) -> jax.Array:
        """R, float32 (blocks, size, size)."""
        upper = np.triu_indices(self.part.size, 1)
        angles = upcast(self.angles[...])
        half = jnp.zeros((self.part.blocks, self.part.size, self.part.size)).at[:, *upper].set(angles)
        q = half - half.mT
        one = jnp.eye(self.part.size)
        if self.part.terms == 0:
            return jnp.linalg.solve((one + q).mT, (one - q).mT).mT
        total, power = one + jnp.zeros_like(q), one
        for number in range(1, self.part.terms):
            power = jnp.matmul(power, q, precision="highest")
            total += power if number == self.part.terms - 1 and number > 1 else 2 * power
        return total

    def __call__(self, x: jax.Array, linear: Linear, key: jax.Array | None) -> jax.Array:
        blocks = x.reshape(*x.shape[:-1], -1, self.part.size)
        rotated = jnp.einsum("...rk,rkc->...rc", blocks, self._of_all(blocks.shape[-2]).astype(x.dtype))
        return linear.plain(rotated.reshape(x.shape))

    def merged(self, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        blocks = upcast(kernel).reshape(-1, self.part.size, kernel.shape[1])
        rotated = jnp.einsum("rkc,rco->rko", self._of_all(len(blocks)), blocks, precision="highest")
        return rotated.reshape(kernel.shape), bias

    def _of_all(self, blocks: int) -> jax.Array:
        rotations = self.rotations()
        return jnp.broadcast_to(rotations, (blocks, *rotations.shape[1:]))


def nearest_divisor(width: int, size: int) -> int:
    """The divisor of `width` that is nearest to `size`; of two, the smaller."""
    return min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: (abs(n - size), n))
