"""Which linear maps have an adapter: PEFT's rules on the names of modules in the checkpoint."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from jaxft.paths import invalid_problem
from jaxft.problems import listed, near, truncated_repr

ALL_LINEAR = "all-linear"


def matches(targets: str | Collection[str], module: str) -> bool:
    """Whether a module is meant: by a regular expression of its whole name, or by one of several ends of it."""
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith("." + target) for target in targets)


def pattern_value(patterns: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first pattern that matches a module's name or an end of it; `default` if none does."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def pattern_problems(targets: str | Sequence[str], modules: Iterable[str], field: str) -> list[str]:
    """One sentence for each target that means no module, or is malformed; `field` is where it was set."""
    modules = sorted(set(modules))
    if not isinstance(targets, str):
        return [
            _unmatched(target, modules, field)
            for target in targets
            if not any(matches((target,), module) for module in modules)
        ]
    if targets == "":
        return []
    if wrong := invalid_problem(targets, field):
        return [wrong]
    if any(matches(targets, module) for module in modules):
        return []
    return [_unmatched(targets, modules, field) + f". A name is written ({targets!r},): text is a regular expression"]


def unmatched_problems(patterns: Iterable[str], modules: Sequence[str], field: str) -> list[str]:
    """As `pattern_problems`, for the keys of `pattern_value`."""
    problems = []
    for pattern in patterns:
        if wrong := invalid_problem(pattern, field):
            problems.append(wrong)
        elif not any(pattern_value({pattern: 1}, module, 0) for module in modules):
            problems.append(_unmatched(pattern, modules, field))
    return problems


def _unmatched(target: str, modules: Iterable[str], field: str) -> str:
    ends = sorted({module.rpartition(".")[2] for module in modules})
    close = "".join(f" Did you mean {name!r}?" for name in near(target, ends, 1))
    return (
        f"{field}: {truncated_repr(target)} matches no linear map of the model.{close} They end with "
        f"{listed(ends, 12)}; {ALL_LINEAR!r} takes all"
    )


def short_names(chosen: Collection[str], modules: Collection[str]) -> list[str]:
    """The shortest ends of names that mean exactly the `chosen` of `modules`; else the names themselves."""
    for parts in (1, 2, 3):
        ends = sorted({".".join(module.split(".")[-parts:]) for module in chosen})
        if all((module in chosen) == matches(ends, module) for module in modules):
            return ends
    return sorted(chosen)
