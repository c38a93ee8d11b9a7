"""Checks of a run's configuration: each function lists problems of one kind, as sentences with a fix."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.config.component import fits, is_config, type_problems
from jaxft.config.functions import as_function
from jaxft.config.protocols import Factory, QuantizationComponent, Source, TaskComponent, TuneComponent
from jaxft.config.ranges import problems_of, range_problems
from jaxft.paths import invalid_problem
from jaxft.problems import UserError, clipped, listed, near, suggest, truncated_repr

if TYPE_CHECKING:
    from jaxft.config.run import Config

FIELD_CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": ("auto", "float32", "bfloat16"),
    "init": ("pretrained", "backbone", "random"),
    "remat": ("none", "dots", "full"),
    "nonfinite": ("stop", "skip"),
    "export_dtype": ("auto", "float32", "bfloat16", "float16"),
}
# Field of the configuration -> (the protocol of its components, what the message expects).
COMPONENTS: dict[str, tuple[type, str]] = {
    "task": (TaskComponent, "a task such as jaxft.tasks.classify.Classify(...)"),
    "data": (Source, "a source such as jaxft.data.source.Data(...)"),
    "batching": (object, "Pad(), Pack(...) or Chunk(...) of jaxft.data.batching"),
    "tune": (TuneComponent, "a way to tune such as jaxft.tune.full.Full()"),
    "quantization": (QuantizationComponent, "a format such as jaxft.quantization.nf4.NF4(), or None"),
    "optim": (Factory, "an optimizer such as jaxft.optim.adamw.AdamW()"),
    "schedule": (Factory, "a schedule such as jaxft.optim.schedule.Linear()"),
}


def value_problems(cfg: "Config") -> list[str]:
    """Values that are out of range, or not one of the choices."""
    return [f"config.{text}" for text in range_problems(cfg) + choice_problems(cfg, FIELD_CHOICES)]


def typed(obj: Any, *names: str) -> bool:
    """Whether these fields hold what their annotations allow, so that they can be compared."""
    types = {field.name: field.type for field in dataclasses.fields(obj)}
    return all(fits(getattr(obj, name), types[name]) for name in names)


def choice_problems(obj: Any, choices: Mapping[str, Sequence[str | None]]) -> list[str]:
    """Fields whose values are not among the choices; `choices` is field -> allowed values."""
    problems = []
    for name, allowed in choices.items():
        value = getattr(obj, name)
        if typed(obj, name) and value not in allowed:
            names = [str(choice) for choice in allowed]
            problems.append(
                f"{name} is {truncated_repr(value)}, expected {', '.join(names)}.{suggest(str(value), names)}"
            )
    return problems


def length_problems(cfg: "Config") -> list[str]:
    """The length of a run is given either by steps or by epochs."""
    if cfg.steps is None and cfg.epochs is None:
        return ["config.steps and config.epochs are both None. Set one of them."]
    if cfg.steps is not None and cfg.epochs is not None:
        both = f"config.steps is {cfg.steps} and config.epochs is {cfg.epochs}"
        return [f"{both}. Set one of them to None, such as --config.epochs=None"]
    return []


def model_problems(cfg: "Config") -> list[str]:
    """A local directory must hold a config.json; a hub name must look like one."""
    if not typed(cfg, "model"):
        return []
    path = Path(os.path.expanduser(cfg.model))
    if not (cfg.model.startswith((".", "~", os.sep)) or os.path.exists(path) or _in_directory(cfg.model)):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", cfg.model):
            return []
        return [
            f"config.model is {clipped(repr(cfg.model), 300)}, neither a directory nor a hub name such as 'org/name'"
        ]
    if (path / "config.json").is_file() and not (path / "checkpoints").is_dir():
        return []
    if (path / "model" / "config.json").is_file():
        return [
            f"config.model is {clipped(repr(cfg.model), 300)}, a work directory. Did you mean {str(path / 'model')!r}?"
        ]
    what = "has no config.json" if path.exists() else "does not exist"
    models = [str(found.parent) for found in path.parent.glob("*/config.json")]
    close = near(str(path), models) or models[:3]
    return [
        f"config.model: the directory {clipped(repr(cfg.model), 300)} {what}."
        + (f" Near it: {', '.join(close)}." if close else "")
    ]


def _in_directory(name: str) -> bool:
    return os.sep in name and os.path.isdir(os.path.dirname(name))


def eval_problems(cfg: "Config") -> list[str]:
    """Names of evaluation sets, and those that other fields refer to."""
    if not typed(cfg, "evals", "save"):
        return []
    problems = [
        f"config.evals has the name {truncated_repr(name)}, expected letters, digits, - and _, and not 'train'"
        for name in cfg.evals
        if name == "train" or not re.fullmatch(r"[\w-]+", name)
    ]
    problems += _metric_problems(cfg, "config.save.best", cfg.save.best)
    if cfg.early_stopping is not None and typed(cfg, "early_stopping"):
        problems += _metric_problems(cfg, "config.early_stopping.metric", cfg.early_stopping.metric)
    best = cfg.save.best.partition("/")[0] if isinstance(cfg.save.best, str) else None
    if best not in cfg.evals:
        return problems
    every, saved = cfg.evals[best].every, cfg.save.every
    if every and saved and typed(cfg.evals[best], "every") and typed(cfg.save, "every") and saved % every:
        problems.append(
            f"config.save.every is {saved} and config.evals.{best}.every {every}, so some checkpoints would "
            f"have no {cfg.save.best}. Make save.every a multiple of it, such as {math.ceil(saved / every) * every}."
        )
    return problems


def _metric_problems(cfg: "Config", field: str, metric: Any) -> list[str]:
    """Whether the evaluation set of a field "EVAL/METRIC" exists."""
    if not isinstance(metric, str) or "/" not in metric or (name := metric.partition("/")[0]) in cfg.evals:
        return []
    names = f"The evals are: {listed(cfg.evals)}." if cfg.evals else "There are no evals."
    missing = f"{field} is {truncated_repr(metric)}, but no eval is named {truncated_repr(name)}."
    return [f"{missing}{suggest(name, cfg.evals)} {names}"]


def multiplier_problems(cfg: "Config") -> list[str]:
    """Malformed patterns of config.lr_multipliers."""
    if not typed(cfg, "lr_multipliers"):
        return []
    invalid = (invalid_problem(pattern, "config.lr_multipliers") for pattern, _ in cfg.lr_multipliers)
    return [text for text in invalid if text]


def quantization_problems(cfg: "Config") -> list[str]:
    """Whether the loop over layers is left out, in which one layer after the other is dequantised."""
    if cfg.quantization is None or cfg.scan != 0:
        return []
    return [
        "config.scan is 0, all layers at once, whose dequantised matrices a program may then hold together, and "
        "config.quantization saves memory. Set config.scan=1"
    ]


def function_problems(cfg: "Config") -> list[str]:
    """Values of config.loss and config.metrics that are no functions."""
    metrics = cfg.metrics if typed(cfg, "metrics") else {}
    given = {} if cfg.loss is None else {"config.loss": cfg.loss}
    problems = []
    for where, value in {**given, **{f"config.metrics[{name!r}]": value for name, value in metrics.items()}}.items():
        try:
            as_function(value, where)
        except UserError as error:
            problems += error.problems
    return problems


def component_problems(cfg: "Config", devices: int | None) -> list[str]:
    """Values that are not components, and the problems that components report themselves."""
    given = {name: getattr(cfg, name) for name in COMPONENTS}
    left_out = {"quantization"} if cfg.quantization is None else set()
    found = [(f"config.{name}", value, *COMPONENTS[name]) for name, value in given.items() if name not in left_out]
    evals = cfg.evals if typed(cfg, "evals") else {}
    found += [(f"config.evals.{key}.data", e.data, *COMPONENTS["data"]) for key, e in evals.items()]
    problems = []
    for name, value, protocol, expected in found:
        if not is_config(value) or not isinstance(value, protocol):
            problems.append(f"{name} is {truncated_repr(value)}, expected {expected}")
        else:
            problems += _own_problems(name, value)
    for key, e in evals.items():
        problems += _own_problems(f"config.evals.{key}", e)
    problems += _own_problems("config.save", cfg.save) if typed(cfg, "save") else []
    if cfg.early_stopping is not None and typed(cfg, "early_stopping"):
        problems += _own_problems("config.early_stopping", cfg.early_stopping)
    return problems + (_own_problems("config.mesh", cfg.mesh, devices) if typed(cfg, "mesh") else [])


def _own_problems(name: str, value: Any, *context: Any) -> list[str]:
    """The problems of `value`; [] if types are wrong, because its own checks could fail then."""
    return [] if type_problems(value) else [f"{name}: {text}" for text in problems_of(value, *context)]


def batch_problems(cfg: "Config", devices: int | None) -> list[str]:
    """Batches that do not split evenly over micro-batches and devices."""
    if not typed(cfg, "batch", "micro_batches", "mesh", "evals") or min(cfg.batch, cfg.micro_batches) < 1:
        return []
    if type_problems(cfg.mesh) or cfg.mesh.problems(devices):
        return []
    sizes = cfg.mesh.sizes(devices) if devices is not None else {"data": 1, "fsdp": 1}
    shards = sizes["data"] * sizes["fsdp"]
    split = f"{shards} shards (mesh data {sizes['data']} * fsdp {sizes['fsdp']})"
    micro = f"{cfg.micro_batches} micro-batches"
    both = micro if devices is None else split if cfg.micro_batches == 1 else f"{split} * {micro}"
    problems = _indivisible("config.batch", cfg.batch, shards * cfg.micro_batches, both)
    for name, e in cfg.evals.items():
        if typed(e, "batch") and e.batch and e.batch > 0:
            problems += _indivisible(f"config.evals.{name}.batch", e.batch, shards, split)
    return problems


def _indivisible(name: str, batch: int, pieces: int, split: str) -> list[str]:
    if batch % pieces == 0:
        return []
    good = [size for size in (batch // pieces * pieces, -(-batch // pieces) * pieces) if size]
    return [f"{name} is {batch}, which {split} do not divide. Nearest that fit: {' or '.join(map(str, good))}."]
