"""The configuration of a run; what can be wrong with one is in checks.py."""

import dataclasses
import importlib
import json
import math
import os
from pathlib import Path
from typing import Annotated

from jaxft.config import checks
from jaxft.config.component import config, from_json, to_json, type_problems
from jaxft.config.ranges import INT, Count, Fraction, NonNegative, NonNegativeInt, Positive, ProperFraction, Range, Seed
from jaxft.host import strict_json
from jaxft.host.output_file import replace_bytes
from jaxft.problems import UserError, raise_problems, truncated_repr


def _made(module: str, name: str):
    """A field that is a new `name()` by default. Imported only then: reading a configuration should not need JAX."""
    return dataclasses.field(default_factory=lambda: getattr(importlib.import_module(module), name)())


MeshSize = Annotated[int, Range(-INT, INT)]  # or rather 1 or more, or -1: Mesh.problems


@config
class Mesh:
    """How many devices share each kind of work; the product is the number of devices. One size may be -1: the rest."""

    data: MeshSize = -1  # replicas of the model
    fsdp: MeshSize | None = None  # that also split the weights; None: 1 if the model fits on each device, else all
    tensor: MeshSize = 1  # devices that split heads, MLP and vocabulary

    @property
    def open(self) -> bool:
        """Whether memory decides over how many devices the weights are split."""
        return self.fsdp is None and self.data == -1

    def sizes(self, devices: int, fsdp: int = 1) -> dict[str, int]:
        """Mesh axis -> size, for `devices` devices; `fsdp` where it is open. Raises UserError if they do not fit."""
        raise_problems(self.problems(devices))
        sizes = self._given(fsdp)
        known = math.prod(size for size in sizes.values() if size != -1)
        return {axis: devices // known if size == -1 else size for axis, size in sizes.items()}

    def _given(self, fsdp: int = 1) -> dict[str, int]:
        """The sizes, with `fsdp` for an open one; where only `data` is given it is the rest."""
        sizes, rest = dataclasses.asdict(self), 1 if self.tensor == -1 else -1
        return sizes | {"fsdp": fsdp if self.open else rest} if self.fsdp is None else sizes

    def problems(self, devices: int | None = None) -> list[str]:
        sizes = self._given()
        problems = [f"{a} is {n}, expected 1 or more, or -1" for a, n in sizes.items() if n < 1 and n != -1]
        rest = [axis for axis, size in sizes.items() if size == -1]
        if len(rest) > 1:
            problems.append(f"{' and '.join(rest)} are -1; only one of them can be the rest")
        if problems or devices is None:
            return problems
        known = math.prod(size for size in sizes.values() if size != -1)
        shape = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        if devices % known if rest else devices != known:
            problems.append(f"{shape} does not fit {devices} devices. Set {_mesh_fix(sizes, devices)}.")
        return problems


@config
class Save:
    """When to save, and what to keep. The last step is always saved."""

    every: Count | None = None  # steps; None: as `best` is evaluated, else a tenth of the run
    keep: Count = 2  # newest checkpoints; the best one is kept besides
    best: str | None = None  # "val/accuracy": keep and export the checkpoint with the best value, not the last
    mode: str | None = None  # "max" or "min" is best; None: as the task declares of the metric

    def problems(self) -> list[str]:
        return [
            *checks.choice_problems(self, {"mode": ("max", "min", None)}),
            *(
                [f"best is {truncated_repr(self.best)}, expected 'EVAL/METRIC'"]
                if self.best and "/" not in self.best
                else []
            ),
        ]


@config
class Eval:
    """One evaluation set. The last step is always evaluated."""

    data: object  # a source
    every: Count | None = None  # steps; None: at every save
    batch: Count | None = None  # rows over all devices; None: as many as one micro batch in training


@config
class Config:
    """A run. A field typed `object` takes a component; which one, the config file says. Flags can set its fields."""

    model: str  # Hugging Face directory, or hub name
    task: object  # what is learned: jaxft.tasks
    data: object  # the training source: jaxft.data
    evals: dict[str, Eval] = dataclasses.field(default_factory=dict)  # by name
    batching: object = _made("jaxft.data.batching", "Pad")  # how examples share rows: Pad, Pack, Chunk
    tune: object = _made("jaxft.tune.full", "Full")  # which weights train: jaxft.tune
    optim: object = _made("jaxft.optim.adamw", "AdamW")
    schedule: object = _made("jaxft.optim.schedule", "Linear")
    lr: Positive  # peak learning rate
    batch: Count  # rows per update, over all devices and micro batches
    micro_batches: Count = 1  # pieces of the batch computed one after another to save memory; same update
    steps: Count | None = None  # updates; set this or epochs
    epochs: Positive | None = None  # passes over the training data, each row once; of 0.3 of one the first rows
    add_tokens: tuple[str, ...] = ()  # words that tokenizer and model shall know, each as one token
    max_len: Count = 128  # tokens of one example; longer ones are cut
    max_unknown: Fraction = 0.5  # share of a set's tokens that the tokenizer may not know; more is an error
    seed: Seed = 0
    dtype: str = "auto"  # of the computation; weights in training are float32. auto: bfloat16 where it is fast
    init: str = "pretrained"  # backbone: the checkpoint's, with a new head; random: its architecture only
    dropout: ProperFraction | None = None  # None: as the model's config.json says
    clip: Positive | None = 1.0  # largest global norm of the gradient
    lr_multipliers: tuple[tuple[str, NonNegative], ...] = ()  # (pattern, factor of lr), the first match wins
    layer_decay: Annotated[float, Range(0.0, 1.0, ("low",))] | None = None  # of the next layer's lr
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    remat: str = "none"  # recompute in the backward pass: none, dots (keeps matrix products), full
    scan: NonNegativeInt = 1  # layers unrolled in each turn of the loop over layers; 0: all, faster on CPU
    save: Save = dataclasses.field(default_factory=Save)
    log_every: Count = 10  # steps
    nonfinite: str = "stop"  # at a NaN or infinity in loss or gradient; skip: leave out this update
    export_dtype: str = "auto"  # of the written weights; auto: as the base checkpoint, so float16 of a float16 one
    wandb: str | None = None  # Weights & Biases project to report to

    def problems(self, devices: int | None = None) -> list[str]:
        """Everything that is wrong, each as one sentence with its fix; with `devices`, also what does not fit them."""
        problems = type_problems(self) + checks.value_problems(self)
        problems += checks.length_problems(self) + checks.model_problems(self)
        problems += checks.eval_problems(self) + checks.multiplier_problems(self)
        problems += checks.component_problems(self, devices) + checks.batch_problems(self, devices)
        try:
            to_json(self)
        except UserError as error:
            problems += error.problems
        return problems

    def validate(self, devices: int | None = None) -> None:
        """Raises UserError with all problems."""
        raise_problems(self.problems(devices))

    def save_interval(self, total: int) -> int:
        """Steps between two saves in a run of `total` steps."""
        best = self.evals.get((self.save.best or "").partition("/")[0])
        return self.save.every or (best and best.every) or max(1, total // 10)

    def eval_interval(self, name: str, total: int) -> int:
        """Steps between two evaluations on the set `name`."""
        return self.evals[name].every or self.save_interval(total)

    def eval_batch(self, name: str) -> int:
        """Rows, over all devices, of one batch of the evaluation set `name`."""
        return self.evals[name].batch or self.batch // self.micro_batches


def save_config(cfg: Config, path: str | os.PathLike) -> None:
    """Writes the configuration as JSON, replacing the file in one move."""
    replace_bytes(Path(path), (json.dumps(to_json(cfg), indent=2) + "\n").encode())


def load_config(path: str | os.PathLike) -> Config:
    """Reads what `save_config` wrote. Raises UserError if it is not there, or not a configuration of this version.

    A class of a module that is not jaxft's and not imported yet is refused (configurable.from_json).
    """
    try:
        cfg = from_json(strict_json.parse(Path(path).read_bytes()))
        problems = type_problems(cfg) if isinstance(cfg, Config) else ["it does not hold a run's configuration"]
    except OSError as error:
        raise UserError(
            f"cannot read the configuration {path} ({error.strerror}): is that the directory of a run?"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a configuration") from None
    except UserError as error:
        problems = error.problems
    raise_problems(f"{path}: {text}" for text in problems)
    return cfg


def _mesh_fix(sizes: dict[str, int], devices: int) -> str:
    """The mesh sizes to change, keeping the tensor axis if it divides the devices."""
    if sizes["tensor"] > 0 and devices % sizes["tensor"] == 0:
        return f"data=-1, fsdp=1, or sizes of data and fsdp whose product is {devices // sizes['tensor']}"
    return f"sizes whose product is {devices}"
