"""The configuration of a run; checks.py has its checks."""

import dataclasses
import importlib
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxft.config import checks
from jaxft.config.component import FUNCTION, config, from_json, to_json, type_problems
from jaxft.config.protocols import Factory, QuantizationComponent, Source, TuneComponent
from jaxft.config.ranges import INT, Count, Fraction, NonNegative, NonNegativeInt, Positive, ProperFraction, Range, Seed
from jaxft.host import strict_json
from jaxft.host.output_file import replace_bytes
from jaxft.problems import UserError, raise_problems, truncated_repr


def _component(module: str, name: str) -> Any:
    """A field whose default is a new `name()`, imported when needed, so that reading a configuration needs no JAX."""
    return dataclasses.field(default_factory=lambda: getattr(importlib.import_module(module), name)())


MeshSize = Annotated[int, Range(-INT, INT)]  # Mesh.problems: -1, or 1 or more


@config
class Mesh:
    """The sizes of the mesh axes; their product is the number of devices. One size may be -1: all remaining devices."""

    data: MeshSize = -1  # replicas of the model
    fsdp: MeshSize | None = (
        None  # replicas that also shard the weights; None: 1 if the model fits on each device, else all
    )
    tensor: MeshSize = 1  # devices that shard heads, MLP and vocabulary

    @property
    def open(self) -> bool:
        """Whether memory decides over how many devices the weights are sharded."""
        return self.fsdp is None and self.data == -1

    def sizes(self, devices: int, fsdp: int = 1) -> dict[str, int]:
        """Mesh axis -> size for `devices` devices; `fsdp` is used if open. Raises UserError if they do not fit."""
        raise_problems(self.problems(devices))
        sizes = self._given(fsdp)
        known = math.prod(size for size in sizes.values() if size != -1)
        return {axis: devices // known if size == -1 else size for axis, size in sizes.items()}

    def _given(self, fsdp: int = 1) -> dict[str, int]:
        """The sizes, with `fsdp` if it is open; if only `data` is given, fsdp is -1."""
        sizes, rest = dataclasses.asdict(self), 1 if self.tensor == -1 else -1
        return sizes | {"fsdp": fsdp if self.open else rest} if self.fsdp is None else sizes

    def problems(self, devices: int | None = None) -> list[str]:
        """Sizes that are not allowed; with `devices`, also those that do not fit them."""
        sizes = self._given()
        problems = [f"{a} is {n}, expected 1 or more, or -1" for a, n in sizes.items() if n < 1 and n != -1]
        rest = [axis for axis, size in sizes.items() if size == -1]
        if len(rest) > 1:
            problems.append(f"{' and '.join(rest)} are -1; only one of them can be -1")
        if problems or devices is None:
            return problems
        known = math.prod(size for size in sizes.values() if size != -1)
        shape = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        if devices % known if rest else devices != known:
            problems.append(f"{shape} does not fit {devices} devices. Set {_mesh_fix(sizes, devices)}.")
        return problems


@config
class Save:
    """When to save, and which checkpoints to keep. The last step is always saved."""

    every: Count | None = None  # steps; None: whenever `best` is evaluated, else a tenth of the run
    keep: Count = 2  # newest checkpoints to keep, in addition to the best one
    best: str | None = None  # "val/accuracy": keep and export the checkpoint with the best value, not the last
    mode: str | None = None  # "max" or "min"; None: as the task declares for the metric

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
class EarlyStopping:
    """When a run ends before its last step: a metric of an evaluation set has stopped improving."""

    metric: str  # "val/accuracy"
    patience: Count = 3  # evaluations in a row without an improvement
    min_delta: NonNegative = 0.0  # the least change that is an improvement
    mode: str | None = None  # "max" or "min"; None: as the task declares for the metric

    def problems(self) -> list[str]:
        found = checks.choice_problems(self, {"mode": ("max", "min", None)})
        if "/" not in self.metric:
            found.append(f"metric is {truncated_repr(self.metric)}, expected 'EVAL/METRIC'")
        return found


@config
class Eval:
    """One evaluation set. The last step is always evaluated."""

    data: Source  # the rows
    every: Count | None = None  # steps; None: at every save
    batch: Count | None = None  # rows over all devices; None: those of one micro-batch in training


@config
class Config:
    """A run. The config file chooses the components; flags can set the fields of the chosen ones."""

    model: str  # Hugging Face directory, or hub name
    task: Any  # a Task of jaxft.tasks: what is learned
    data: Source  # the training rows: jaxft.data
    evals: dict[str, Eval] = dataclasses.field(default_factory=dict)  # by name
    batching: Any = _component("jaxft.data.batching", "Pad")  # how examples share rows: Pad, Pack, Chunk
    # own loss, a function (training/own_functions.py) or its name "MODULE:FUNCTION"; None: the task's
    loss: Any = dataclasses.field(default=None, metadata=FUNCTION)
    # own metrics: name -> function, or its name
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict, metadata=FUNCTION)
    tune: TuneComponent = _component("jaxft.tune.full", "Full")  # which weights train: jaxft.tune
    adapter: str | None = None  # directory of a PEFT adapter of config.tune's method, from which training goes on
    quantization: QuantizationComponent | None = None  # frozen linear maps in fewer bits: NF4, FP4, Int8; None: floats
    optim: Factory = _component("jaxft.optim.adamw", "AdamW")  # the optimizer: jaxft.optim
    schedule: Factory = _component("jaxft.optim.schedule", "Linear")  # of the learning rate: jaxft.optim.schedule
    lr: Positive | Literal["auto"]  # peak learning rate; auto: that of config.tune for a model of this size
    batch: Count  # rows per update, over all devices and micro-batches
    micro_batches: Count = 1  # parts of the batch, computed in sequence to save memory; the update is the same
    steps: Count | None = None  # updates; set this or epochs
    epochs: Positive | None = None  # passes over the training data; 0.3 means three tenths of the rows
    add_tokens: tuple[str, ...] = ()  # words that become one token each, in tokenizer and model
    max_len: Count = 128  # tokens of one example; longer ones are cut
    max_unknown: Fraction = 0.5  # the largest share of tokens unknown to the tokenizer; more is an error
    seed: Seed = 0  # of new weights, order, dropout and masking
    dtype: str = "auto"  # of the computation; trained weights are float32. auto: bfloat16 where it is fast
    init: str = "pretrained"  # backbone: the checkpoint with a new head; random: only its architecture
    dropout: ProperFraction | None = None  # None: as in the model's config.json
    clip: Positive | None = 1.0  # maximum global norm of the gradient
    lr_multipliers: tuple[tuple[str, NonNegative], ...] = ()  # (pattern, factor of lr), the first match wins
    layer_decay: Annotated[float, Range(0.0, 1.0, ("low",))] | None = (
        None  # factor of lr from each layer to the one below
    )
    mesh: Mesh = dataclasses.field(default_factory=Mesh)  # how the devices share the work
    remat: str = "none"  # what the backward pass recomputes: none, dots (all but matrix products), full
    scan: NonNegativeInt = 1  # layers unrolled per iteration of the loop over layers; 0: all, faster on CPUs
    save: Save = dataclasses.field(default_factory=Save)  # when to save, and what to keep
    early_stopping: EarlyStopping | None = None  # when to end before the last step; None: never
    eval_on_start: bool = False  # evaluate all sets before the first step
    log_every: Count = 10  # steps
    nonfinite: str = "stop"  # for a NaN or infinity in loss or gradient; skip: skip the update
    export_dtype: str = "auto"  # of exported weights; auto: that of the base checkpoint
    wandb: str | None = None  # Weights & Biases project to report to

    def problems(self, devices: int | None = None) -> list[str]:
        """All problems, each as one sentence with its fix; with `devices`, also what does not fit them."""
        problems = type_problems(self) + checks.value_problems(self)
        problems += checks.length_problems(self) + checks.model_problems(self)
        problems += checks.function_problems(self) + checks.quantization_problems(self)
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
        """Rows, over all devices, per batch of the evaluation set `name`."""
        return self.evals[name].batch or self.batch // self.micro_batches


def save_config(cfg: Config, path: str | os.PathLike[str]) -> None:
    """Writes the configuration as JSON; the file is replaced atomically."""
    replace_bytes(Path(path), (json.dumps(to_json(cfg), indent=2) + "\n").encode())


def load_config(path: str | os.PathLike[str]) -> Config:
    """Reads what `save_config` wrote. Raises UserError if the file is missing or not a valid configuration.

    Classes of modules outside jaxft that are not imported yet are refused (component.from_json).
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
