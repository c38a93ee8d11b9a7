"""MiSS (Kang et al. 2024, "Balancing LoRA Performance and Efficiency with Simple Shard Sharing")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.adapters.base import AdapterPart, Join, Pieces, StoredModule, Tensors
from jaxft.adapters.targeted import Targeted
from jaxft.config.component import config
from jaxft.config.ranges import Count, ProperFraction
from jaxft.models.layers.basic import Adapter, Linear, param
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.precision import upcast
from jaxft.tune.base import LinearMap


@config
class MiSS(Targeted):
    """One small matrix trains, which all shards of a map's inputs share.

    It takes the learning rates of LoRA or smaller ones: 1e-4 to 1e-3.
    """

    rank: Count = 64  # the width of a shard
    dropout: ProperFraction = 0.0  # on the input of the update

    lr_scale: ClassVar[float] = 2.0  # tune/learning_rate.py
    peft_type: ClassVar[str] = "MISS"
    unread: ClassVar[Mapping[str, Any]] = {"init_weights": True}
    reads_transposed: ClassVar[bool] = False

    def part_for(self, one: LinearMap) -> "Shared":
        """See Targeted."""
        return Shared(self.rank, self.dropout)

    def part_problems(self, chosen: Sequence[LinearMap]) -> list[str]:
        """See Targeted."""
        narrow = [one for one in chosen if one.inputs < self.rank]
        return [
            f"tune.rank is {self.rank}, but {one.module} has {one.inputs} inputs: use a smaller rank, or leave the map "
            "out (tune.exclude_modules)"
            for one in narrow[:1]
        ]

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """See adapters/base.py."""
        return {**Targeted.settings(self, found, modules), "r": self.rank, "miss_dropout": self.dropout}

    @classmethod
    def part_of(cls, config: Mapping[str, Any], module: str, stored: Mapping[str, np.ndarray]) -> "Shared":
        """See adapters/base.py."""
        return Shared(len(stored["miss_block"]))


@dataclass(frozen=True)
class Shared(AdapterPart):
    """x -> x W + b + s(dropout(x)) D, s(x) the sum of the shards of x, each `rank` inputs (Kang et al. 2024, eq. 6)."""

    rank: int
    dropout: float = 0.0

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "SharedLayer":
        return SharedLayer(self, outputs, axes)

    def stored(self, values: Mapping[str, np.ndarray]) -> Tensors:
        """As it is: (rank, outputs)."""
        return {"miss_block": values["block"]}

    def values(self, stored: Mapping[str, np.ndarray]) -> Tensors:
        return {"block": stored["miss_block"]}

    def joined(self, tensors: Sequence[Tensors], join: Join) -> StoredModule:
        """The blocks stand beside each other."""
        return StoredModule(self, {"miss_block": join([each["miss_block"] for each in tensors])})

    def parted(self, stored: StoredModule, pieces: Pieces, count: int) -> list[Tensors] | None:
        """The inverse of `joined`."""
        if stored.part != self.untrained():
            return None
        return [{"miss_block": each} for each in pieces(stored.tensors["miss_block"])]

    def untrained(self) -> "Shared":
        return Shared(self.rank)


class SharedLayer(Adapter):
    """`block` (rank, outputs), which is 0 at first."""

    def __init__(self, part: Shared, outputs: int, axes: tuple[str | None, str | None]):
        self.part = part
        self.block = param((part.rank, outputs), (None, axes[1]), "kernel", "zeros", origin="adapter")

    def __call__(self, x: jax.Array, linear: Linear, key: jax.Array | None) -> jax.Array:
        y, x = linear.plain(x), dropout(x, self.part.dropout, key)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % self.part.rank)])
        shards = x.reshape(*x.shape[:-1], -1, self.part.rank)
        return y + jnp.sum(shards, -2) @ self.block[...].astype(x.dtype)

    def merged(self, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        rows = jnp.arange(len(kernel)) % self.part.rank
        return upcast(kernel) + upcast(self.block[...])[rows], bias
