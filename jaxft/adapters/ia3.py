"""IA3 (Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from jaxft.adapters.base import AdapterPart, Join, Pieces, StoredModule, Tensors
from jaxft.adapters.targeted import Targeted
from jaxft.adapters.targets import matches, short_names
from jaxft.config.component import config
from jaxft.models.layers.basic import Adapter, Linear, param
from jaxft.models.layers.precision import upcast
from jaxft.tune.base import LinearMap

KEYS_VALUES = ("attn.k", "attn.v", "cross.k", "cross.v")
DOWN = "mlp.down"


@config
class IA3(Targeted):
    """Vectors that scale the keys, the values and the hidden units of MLPs train, with the head of a task.

    It trains about a hundredth of what LoRA does, and takes a larger learning rate: 3e-3 to 1e-2.
    """

    target_modules: tuple[str, ...] | str = ()  # the linear maps; (): keys, values and the MLPs' maps back to the width
    feedforward_modules: tuple[str, ...] = ()  # of these, the ones whose inputs are scaled; (): those of the MLPs

    lr_scale: ClassVar[float] = 20.0  # tune/learning_rate.py
    peft_type: ClassVar[str] = "IA3"

    def targets(self, one: LinearMap) -> bool:
        """See Targeted."""
        if self.target_modules == ():
            return one.place in (*KEYS_VALUES, DOWN)
        return Targeted.targets(self, one)

    def part_for(self, one: LinearMap) -> "Scaled":
        """See Targeted."""
        names = self.feedforward_modules
        return Scaled(matches(names, one.module) if names else one.place == DOWN)

    def patterns(self) -> Mapping[str, Sequence[str]]:
        """See Targeted."""
        return {"feedforward_modules": self.feedforward_modules}

    def part_problems(self, chosen: Sequence[LinearMap]) -> list[str]:
        """See Targeted: feed-forward modules are among the targets."""
        return [
            f"tune.feedforward_modules: {name!r} is not among tune.target_modules: name it there as well"
            for name in self.feedforward_modules
            if not any(matches((name,), one.module) for one in chosen)
        ]

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """See adapters/base.py. PEFT finds feed-forward modules among the targets by the same names."""
        forward = [name for name, one in found.items() if isinstance(one.part, Scaled) and one.part.of_inputs]
        ends = short_names(forward, modules)
        others = [name for name in found if name not in forward]
        return {"target_modules": sorted({*ends, *short_names(others, modules)}), "feedforward_modules": ends}

    @classmethod
    def part_of(cls, config: Mapping[str, Any], module: str, stored: Mapping[str, np.ndarray]) -> "Scaled":
        """See adapters/base.py."""
        return Scaled(matches(config.get("feedforward_modules") or (), module))


@dataclass(frozen=True)
class Scaled(AdapterPart):
    """x -> (x W + b) * scale, or (x * scale) W + b (Liu et al. 2022, section 3.3)."""

    of_inputs: bool

    @property
    def scales_bias(self) -> bool:
        return not self.of_inputs

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "ScaledLayer":
        return ScaledLayer(self, *((inputs, axes[0]) if self.of_inputs else (outputs, axes[1])))

    def stored(self, values: Mapping[str, np.ndarray]) -> Tensors:
        """A row for inputs, a column for outputs."""
        return {"ia3_l": values["scale"].reshape((1, -1) if self.of_inputs else (-1, 1))}

    def values(self, stored: Mapping[str, np.ndarray]) -> Tensors:
        return {"scale": stored["ia3_l"].reshape(-1)}

    def joined(self, tensors: Sequence[Tensors], join: Join) -> StoredModule | None:
        """Scales of outputs stand beside each other; those of inputs, which the maps share, cannot differ."""
        if len(tensors) == 1:
            return StoredModule(self, tensors[0])
        if self.of_inputs:
            return None
        return StoredModule(self, {"ia3_l": join([each["ia3_l"].reshape(-1) for each in tensors]).reshape(-1, 1)})

    def parted(self, stored: StoredModule, pieces: Pieces, count: int) -> list[Tensors] | None:
        """The inverse of `joined`."""
        if count == 1 or self.of_inputs or stored.part != self:
            return AdapterPart.parted(self, stored, pieces, count)
        return [{"ia3_l": each.reshape(-1, 1)} for each in pieces(stored.tensors["ia3_l"].reshape(-1))]


class ScaledLayer(Adapter):
    """`scale` (inputs or outputs), which is 1 at first."""

    def __init__(self, part: Scaled, width: int, axis: str | None):
        self.part = part
        self.scale = param((width,), (axis,), "norm", "ones", origin="adapter")

    def __call__(self, x: jax.Array, linear: Linear, key: jax.Array | None) -> jax.Array:
        scale = self.scale[...].astype(x.dtype)
        return linear.plain(x * scale) if self.part.of_inputs else linear.plain(x) * scale

    def merged(self, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        scale = upcast(self.scale[...])
        if self.part.of_inputs:
            return upcast(kernel) * scale[:, None], bias
        return upcast(kernel) * scale, None if bias is None else upcast(bias) * scale
