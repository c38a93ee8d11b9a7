"""The work that is measured: a folder which the command writes and each child process reads. Imports no JAX.

config.json   the run, for jaxft
job.json      the same facts for others, see `Job`
train.npz, evaluate.npz   the encoded examples: tokens, types, targets as flat arrays, and `starts` (n + 1,)
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

WARM = 3  # steps before those that are timed


@dataclasses.dataclass
class Job:
    """What another trainer must know to do the same work."""

    model: str  # directory
    head: str  # a name of models/heads.py
    labels: list[str] | None
    problem_type: str | None
    random: bool  # random weights instead of the checkpoint's
    dropout: float | None  # None: as config.json says
    trained: list[str]  # names of the checkpoint's tensors that train
    mask_rate: float  # of masked language modelling
    lr: float
    optim: dict  # AdamW's b1, b2, eps, decay
    clip: float | None
    batch: int
    micro_batches: int
    eval_batch: int
    dtype: str
    seed: int
    max_len: int
    padding: str  # dynamic, grouped, fixed
    steps: int  # timed ones
    log_every: int

    def write(self, folder: Path) -> None:
        (folder / "job.json").write_text(json.dumps(dataclasses.asdict(self)))


def read_job(folder: Path) -> Job:
    return Job(**json.loads((folder / "job.json").read_text()))


def write_examples(file: Path, encoded) -> None:
    """`encoded` as in data/encoded.py."""
    kept = {key: encoded.flat[key] for key in ("tokens", "types", "targets") if key in encoded.flat}
    np.savez(file, **kept, starts=encoded.offsets["tokens"])


def read_examples(file: Path) -> list[dict]:
    """One dict an example: `tokens` and `types` (n,), and `targets` of a text as a whole: a number, or (classes,)."""
    arrays = dict(np.load(file))
    starts = arrays.pop("starts")
    targets = arrays.pop("targets", None)
    examples = [
        {key: values[start:stop] for key, values in arrays.items()}
        for start, stop in zip(starts[:-1], starts[1:], strict=True)
    ]
    for example, target in zip(examples, targets if targets is not None else [], strict=False):
        example["targets"] = target
    return examples
