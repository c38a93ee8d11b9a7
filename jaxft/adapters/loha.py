"""LoHa (Hyeon-Woo et al. 2021, "FedPara: Low-rank Hadamard Product for Communication-Efficient Federated Learning",
applied to updates as in LyCORIS)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.adapters.base import AdapterPart, Join, StoredModule, Tensors
from jaxft.adapters.lora import join_blocks
from jaxft.adapters.targeted import Ranked, Targeted, alpha_settings, rank_settings
from jaxft.adapters.targets import pattern_value
from jaxft.config.component import config
from jaxft.models.layers.basic import Adapter, Linear, param
from jaxft.models.layers.precision import upcast
from jaxft.tune.base import LinearMap


@config
class LoHa(Ranked):
    """The elementwise product of two low-rank matrices is the update, whose rank is up to the square of theirs.

    It takes the learning rates of LoRA, 1e-3 to 5e-3.
    """

    lr_scale: ClassVar[float] = 10.0  # tune/learning_rate.py
    peft_type: ClassVar[str] = "LOHA"
    reads_transposed: ClassVar[bool] = False

    def part_for(self, one: LinearMap) -> "HadamardProduct":
        """See Targeted."""
        return HadamardProduct(self.rank_of(one), self.scale_of(one))

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """See adapters/base.py."""
        parts = {name: one.part for name, one in found.items() if isinstance(one.part, HadamardProduct)}
        return {
            **Targeted.settings(self, found, modules),
            **rank_settings({name: part.rank for name, part in parts.items()}),
            **alpha_settings({name: part.scale * part.rank for name, part in parts.items()}, "alpha"),
        }

    @classmethod
    def part_of(cls, config: Mapping[str, Any], module: str, stored: Mapping[str, np.ndarray]) -> "HadamardProduct":
        """See adapters/base.py."""
        rank = len(stored["hada_w1_b"])
        return HadamardProduct(rank, pattern_value(config.get("alpha_pattern") or {}, module, config["alpha"]) / rank)


@dataclass(frozen=True)
class HadamardProduct(AdapterPart):
    """x -> x (W + scale * (B1 A1) * (B2 A2)) + b (Hyeon-Woo et al. 2021, eq. 2)."""

    rank: int
    scale: float

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "HadamardProductLayer":
        return HadamardProductLayer(self, inputs, outputs, axes)

    def suffixes(self) -> Mapping[str, str]:
        return {"a1": "hada_w1_a", "b1": "hada_w1_b", "a2": "hada_w2_a", "b2": "hada_w2_b"}

    def joined(self, tensors: Sequence[Tensors], join: Join) -> StoredModule:
        """Of several maps, one whose rank is the sum of theirs."""
        if len(tensors) == 1:
            return StoredModule(self, tensors[0])
        joined = {
            name: join_blocks([each[name] for each in tensors], join)
            if name.endswith("_a")
            else np.concatenate([each[name] for each in tensors])
            for name in tensors[0]
        }
        return StoredModule(replace(self, rank=len(joined["hada_w1_b"])), joined)


class HadamardProductLayer(Adapter):
    """`a1` and `a2` (rank, outputs), `b1` and `b2` (inputs, rank), which is 0 at first."""

    def __init__(self, part: HadamardProduct, inputs: int, outputs: int, axes: tuple[str | None, str | None]):
        self.part = part
        of_outputs, of_inputs = ((part.rank, outputs), (None, axes[1])), ((inputs, part.rank), (axes[0], None))
        self.a1 = param(*of_outputs, "kernel", "kaiming_uniform", origin="adapter")
        self.b1 = param(*of_inputs, "kernel", "kaiming_uniform", origin="adapter")
        self.a2 = param(*of_outputs, "kernel", "kaiming_uniform", origin="adapter")
        self.b2 = param(*of_inputs, "kernel", "zeros", origin="adapter")

    def update(self) -> jax.Array:
        """The change of the kernel, float32 (inputs, outputs)."""
        first = jnp.matmul(upcast(self.b1[...]), upcast(self.a1[...]), precision="highest")
        second = jnp.matmul(upcast(self.b2[...]), upcast(self.a2[...]), precision="highest")
        return self.part.scale * first * second

    def __call__(self, x: jax.Array, linear: Linear, key: jax.Array | None) -> jax.Array:
        return linear.plain(x) + x @ self.update().astype(x.dtype)

    def merged(self, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        return upcast(kernel) + self.update(), bias
