"""What all methods have in common that put adapters on linear maps: the choice of the maps, and of what else trains."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxft.adapters.base import AdapterPart, PeftMethod, StoredModule
from jaxft.adapters.targets import (
    ALL_LINEAR,
    matches,
    pattern_problems,
    pattern_value,
    short_names,
    unmatched_problems,
)
from jaxft.config.ranges import Count, NonNegativeInt, Positive
from jaxft.problems import raise_problems
from jaxft.tune.base import LinearMap, Tunable


@dataclass(kw_only=True, slots=True)  # a component is a class that inherits from it
class Targeted(PeftMethod):
    """Adapters on linear maps that are chosen by name, with PEFT's rules."""

    target_modules: tuple[str, ...] | str = ALL_LINEAR  # the linear maps; all-linear: all but the head's and routers
    exclude_modules: tuple[str, ...] | str = ()  # of these, the ones left out
    layers_to_transform: tuple[NonNegativeInt, ...] = ()  # numbers of layers; (): all
    modules_to_save: tuple[str, ...] = ()  # further modules that train whole

    def part_for(self, one: LinearMap) -> AdapterPart:
        """The adapter of a linear map."""
        raise NotImplementedError

    def part_problems(self, chosen: Sequence[LinearMap]) -> list[str]:
        """Why maps cannot have an adapter, with the fix."""
        return []

    def patterns(self) -> Mapping[str, Iterable[str]]:
        """Field -> the names of modules in it, each of which must be in the model."""
        return {}

    def select(self, model: Tunable) -> set[str]:
        """See tune/base.py."""
        saved = {
            name
            for name, tensor in model.tensors.items()
            if any(_contains(module, tensor) for module in self.modules_to_save) and name in model.roles
        }
        return saved | {name for name in model.roles if model.trains_head and name.startswith("head.")}

    def adapters(self, model: Tunable) -> dict[str, AdapterPart]:
        """See tune/base.py."""
        modules = {one.module for one in model.maps if self._targets(one)}
        chosen = [one for one in model.maps if one.module in modules]
        raise_problems(self._problems(model, chosen))
        return {one.name: self.part_for(one) for one in chosen}

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """See adapters/base.py."""
        return {"target_modules": short_names(found, modules)}

    def targets(self, one: LinearMap) -> bool:
        """Whether `target_modules` means a map."""
        return self.target_modules == ALL_LINEAR or _safely_matches(self.target_modules, one.module)

    def _targets(self, one: LinearMap) -> bool:
        if self.layers_to_transform and one.layer not in self.layers_to_transform:
            return False
        return self.targets(one) and not _safely_matches(self.exclude_modules, one.module)

    def _problems(self, model: Tunable, chosen: list[LinearMap]) -> list[str]:
        modules = [one.module for one in model.maps]
        targets = () if self.target_modules == ALL_LINEAR else self.target_modules
        problems = pattern_problems(targets, modules, "tune.target_modules")
        problems += pattern_problems(self.exclude_modules, modules, "tune.exclude_modules")
        for name, patterns in self.patterns().items():
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
        adapted = {one.module for one in chosen}
        problems += [
            f"tune.modules_to_save: {module!r} has adapters as well: leave it out, or exclude it (tune.exclude_modules)"
            for module in self.modules_to_save
            if any(_contains(module, f"{one}.") for one in adapted)
        ]
        if not problems and not chosen:
            problems.append("tune leaves no linear map to adapt: name fewer tune.exclude_modules, or more layers")
        return problems or self.part_problems(chosen)


@dataclass(kw_only=True, slots=True)  # a component is a class that inherits from it
class Ranked(Targeted):
    """Adapters with a rank: the update is multiplied by alpha / rank."""

    rank: Count = 8  # of each update
    alpha: Positive = 16.0  # the update is multiplied by alpha / rank
    rank_pattern: dict[str, Count] = field(default_factory=dict)  # module name -> its own rank
    alpha_pattern: dict[str, Positive] = field(default_factory=dict)  # module name -> its own alpha

    def rank_of(self, one: LinearMap) -> int:
        """The rank of a map's adapter."""
        return int(pattern_value(self.rank_pattern, one.module, self.rank))

    def scale_of(self, one: LinearMap) -> float:
        """The factor of a map's update."""
        return pattern_value(self.alpha_pattern, one.module, self.alpha) / self.rank_of(one)

    def patterns(self) -> Mapping[str, Iterable[str]]:
        """See Targeted."""
        return {"rank_pattern": self.rank_pattern, "alpha_pattern": self.alpha_pattern}

    def part_problems(self, chosen: Sequence[LinearMap]) -> list[str]:
        """See Targeted."""
        return rank_problems(chosen, self.rank_of)


def rank_problems(chosen: Sequence[LinearMap], rank_of: Callable[[LinearMap], int]) -> list[str]:
    """Ranks above the width of a map: its update could be written with fewer numbers as a full matrix."""
    least = {one.module: width for one in chosen if rank_of(one) > (width := min(one.inputs, one.outputs))}
    if not least:
        return []
    module = min(least, key=lambda name: least[name])
    return [
        f"the rank of {module} is larger than its width, {least[module]}, in tune.rank or tune.rank_pattern: use a "
        "smaller rank, or leave the map out (tune.exclude_modules)"
    ]


def rank_settings(ranks: Mapping[str, int]) -> dict[str, Any]:
    """PEFT's settings for the ranks of modules: r is that of most."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    return {"r": usual, "rank_pattern": {name: rank for name, rank in ranks.items() if rank != usual}}


def alpha_settings(alphas: Mapping[str, float], name: str) -> dict[str, Any]:
    """PEFT's settings for the alphas of modules: the field `name` is that of most."""
    rounded = {module: float(f"{alpha:.12g}") for module, alpha in alphas.items()}  # of alpha / rank * rank
    usual = Counter(rounded.values()).most_common(1)[0][0]
    return {name: usual, "alpha_pattern": {module: alpha for module, alpha in rounded.items() if alpha != usual}}


def _contains(module: str, tensor: str) -> bool:
    """Whether a tensor is in a module that is named by its end."""
    return re.match(rf"(.*\.)?{re.escape(module)}\.", tensor) is not None


def _safely_matches(targets: tuple[str, ...] | str, module: str) -> bool:
    """As `matches`, but a malformed expression matches nothing: it is reported with the other problems."""
    try:
        return matches(targets, module)
    except re.error:
        return False
