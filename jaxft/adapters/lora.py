"""LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"), with rsLoRA's scale (Kalajdzievski
2023)."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from jaxft.adapters.targets import ALL_LINEAR, matches, pattern_problems, pattern_value, unmatched_problems
from jaxft.config.component import config
from jaxft.config.ranges import Count, NonNegativeInt, Positive, ProperFraction
from jaxft.models.layers.basic import Adapter, Linear, param
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.precision import upcast
from jaxft.problems import raise_problems
from jaxft.tune.base import LinearMap, Tunable


@config
class LoRA:
    """A low-rank update of linear maps trains, with the head of a task; the rest is frozen.

    Targets are named as in the checkpoint, with PEFT's rules: ends of module names ("q_proj", "attention.self.query"),
    or a string that is a regular expression of a whole name. Heads of language models are frozen; other heads train
    whole. A good learning rate is about ten times that of full tuning: 1e-4 to 2e-3.
    """

    rank: Count = 8  # of each update
    alpha: Positive = 16.0  # the update is multiplied by alpha / rank
    dropout: ProperFraction = 0.0  # on the input of the update
    rslora: bool = False  # multiply by alpha / sqrt(rank), which suits large ranks
    target_modules: tuple[str, ...] | str = ALL_LINEAR  # the linear maps; all-linear: all but the head's and routers
    exclude_modules: tuple[str, ...] | str = ()  # of these, the ones left out
    layers_to_transform: tuple[NonNegativeInt, ...] = ()  # numbers of layers; (): all
    rank_pattern: dict[str, Count] = field(default_factory=dict)  # module name -> its own rank
    alpha_pattern: dict[str, Positive] = field(default_factory=dict)  # module name -> its own alpha
    bias: Literal["none", "all", "lora_only"] = "none"  # biases that train; lora_only: those of the targets
    modules_to_save: tuple[str, ...] = ()  # further modules that train whole

    def select(self, model: Tunable) -> set[str]:
        """See tune/base.py."""
        saved = {
            name
            for name, tensor in model.tensors.items()
            if any(_contains(module, tensor) for module in self.modules_to_save) and name in model.roles
        }
        if model.trains_head:
            saved |= {name for name in model.roles if name.startswith("head.")}
        if self.bias == "all":
            saved |= {name for name, role in model.roles.items() if role == "bias"}
        if self.bias == "lora_only":
            saved |= {f"{name}.bias" for name in self.adapters(model)} & model.roles.keys()
        return saved

    def adapters(self, model: Tunable) -> dict[str, "LowRank"]:
        """See tune/base.py."""
        chosen = [one for one in model.maps if self._targets(one)]
        raise_problems(self._problems(model, chosen))
        return {one.name: self._part(one) for one in chosen}

    def _targets(self, one: LinearMap) -> bool:
        if self.layers_to_transform and one.layer not in self.layers_to_transform:
            return False
        if _safely_matches(self.exclude_modules, one.module):
            return False
        return self.target_modules == ALL_LINEAR or _safely_matches(self.target_modules, one.module)

    def _part(self, one: LinearMap) -> "LowRank":
        rank = int(pattern_value(self.rank_pattern, one.module, self.rank))
        alpha = pattern_value(self.alpha_pattern, one.module, self.alpha)
        return LowRank(rank, alpha / (math.sqrt(rank) if self.rslora else rank), self.dropout)

    def _problems(self, model: Tunable, chosen: list[LinearMap]) -> list[str]:
        modules = [one.module for one in model.maps]
        targets = () if self.target_modules == ALL_LINEAR else self.target_modules
        problems = pattern_problems(targets, modules, "tune.target_modules")
        problems += pattern_problems(self.exclude_modules, modules, "tune.exclude_modules")
        for name, patterns in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
            problems += unmatched_problems(patterns, modules, f"tune.{name}")
        known = {one.layer for one in model.maps if one.layer is not None}
        beyond = sorted(set(self.layers_to_transform) - known)
        if beyond:
            problems.append(
                f"tune.layers_to_transform names {', '.join(map(str, beyond))}, but the model's layers are 0 to "
                f"{max(known, default=0)}"
            )
        tensors = list(model.tensors.values())
        problems += [
            f"tune.modules_to_save: {module!r} is no module of the model"
            for module in self.modules_to_save
            if not any(_contains(module, tensor) for tensor in tensors)
        ]
        if not problems and not chosen:
            problems.append("tune leaves no linear map to adapt: name fewer tune.exclude_modules, or more layers")
        return problems + ([] if problems else self._rank_problems(chosen))

    def _rank_problems(self, chosen: Iterable[LinearMap]) -> list[str]:
        """Ranks above the width of a map: its update could be written with fewer numbers as a full matrix."""
        least: dict[str, int] = {}
        for one in chosen:
            width = min(one.inputs, one.outputs)
            if self._part(one).rank > width:
                least[one.module] = width
        if not least:
            return []
        module = min(least, key=lambda name: least[name])
        return [
            f"the rank of {module} is larger than its width, {least[module]}, in tune.rank or tune.rank_pattern: use "
            "a smaller rank, or leave the map out (tune.exclude_modules)"
        ]


@dataclass(frozen=True)
class LowRank:
    """x -> x W + b + scale * dropout(x) A B (Hu et al. 2021, eq. 3)."""

    rank: int
    scale: float
    dropout: float = 0.0

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "LowRankLayer":
        return LowRankLayer(self, inputs, outputs, axes)


class LowRankLayer(Adapter):
    """`a` (inputs, rank) and `b` (rank, outputs), which is 0 at first."""

    def __init__(self, part: LowRank, inputs: int, outputs: int, axes: tuple[str | None, str | None]):
        self.part = part
        self.a = param((inputs, part.rank), (axes[0], None), "kernel", "kaiming_uniform", origin="adapter")
        self.b = param((part.rank, outputs), (None, axes[1]), "kernel", "zeros", origin="adapter")

    def __call__(self, x: jax.Array, linear: Linear, key: jax.Array | None) -> jax.Array:
        low = dropout(x, self.part.dropout, key) @ self.a[...].astype(x.dtype)
        update = low @ self.b[...].astype(x.dtype)
        return linear.plain(x) + update * jnp.asarray(self.part.scale, x.dtype)

    def merged(self, kernel: jax.Array) -> jax.Array:
        product = jnp.matmul(upcast(self.a[...]), upcast(self.b[...]), precision="highest")
        return upcast(kernel) + self.part.scale * product


def _contains(module: str, tensor: str) -> bool:
    """Whether a tensor is in a module that is named by its end."""
    return re.match(rf"(.*\.)?{re.escape(module)}\.", tensor) is not None


def _safely_matches(targets: tuple[str, ...] | str, module: str) -> bool:
    """As `matches`, but a malformed expression matches nothing: it is reported with the other problems."""
    try:
        return matches(targets, module)
    except re.error:
        return False
