"""The work to be measured: a folder that the command writes and each child process reads. Imports no JAX.

config.json   the configuration, for jaxft
job.json      the same for the Trainer, see `Job`
train.npz, evaluate.npz   the encoded examples: tokens, types and labels as flat arrays, and `starts` (n + 1,)
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxft.data.encoded import Encoded

WARMUP_STEPS = 3  # before those that are timed
IGNORE_INDEX = -100  # label of a token without a loss
NO_ANSWER = 10**6  # position of an answer without a loss; transformers ignores positions beyond the text
ARGUMENTS = {"tokens": "input_ids", "types": "token_type_ids", "token_labels": "labels"}  # arrays per token


@dataclasses.dataclass
class Job:
    """What transformers' Trainer needs in order to do the same work."""

    model: str  # directory
    head: str  # a name of models/heads.py
    labels: list[str] | None
    problem_type: str | None
    random: bool  # random weights, not the checkpoint's
    dropout: float | None  # None: as in config.json
    trained: list[str]  # names of the checkpoint's tensors that train
    mask_rate: float  # of masked language modelling
    lr: float
    optim: dict[str, float]  # AdamW's b1, b2, eps, decay
    clip: float | None
    batch: int
    micro_batches: int
    eval_batch: int
    dtype: str
    seed: int
    max_len: int
    padding: str  # dynamic, grouped or fixed
    steps: int  # that are timed
    log_every: int

    def write(self, folder: Path) -> None:
        """Writes job.json."""
        (folder / "job.json").write_text(json.dumps(dataclasses.asdict(self)))


def read_job(folder: Path) -> Job:
    """Reads job.json."""
    return Job(**json.loads((folder / "job.json").read_text()))


def write_examples(file: Path, encoded: "Encoded", head: str) -> None:
    """Writes an .npz file of encoded examples; `head` decides the format of the labels."""
    arrays: dict[str, Any] = {key: encoded.flat[key] for key in ("tokens", "types") if key in encoded.flat}
    np.savez(file, **arrays, **labels_of(encoded, head), starts=encoded.offsets["tokens"])


def labels_of(encoded: "Encoded", head: str) -> dict[str, Any]:
    """Targets in the format of transformers' models: `token_labels` (tokens,), all others (examples, ...)."""
    if "targets" not in encoded.flat:
        return {}
    starts, targets = encoded.offsets["tokens"], encoded.flat["targets"]
    if head == "token-classification":
        labels = np.full(starts[-1], IGNORE_INDEX)
        labels[np.repeat(starts[:-1], encoded.counts) + encoded.flat["at"]] = targets[:, 0]
        return {"token_labels": labels}
    if head == "question-answering":
        found = {}
        for side, name in enumerate(("start_positions", "end_positions")):
            marks = np.flatnonzero(targets[:, side])
            example = np.searchsorted(starts, marks, "right") - 1
            found[name] = np.full(len(starts) - 1, NO_ANSWER)
            found[name][example] = marks - starts[example]
        return found
    return {"labels": targets}


def read_examples(file: Path) -> list[dict[str, Any]]:
    """One dict per example, with the argument names of transformers' models."""
    arrays = dict(np.load(file))
    starts = arrays.pop("starts")
    pieces = list(zip(starts[:-1], starts[1:], strict=True))
    examples: list[dict[str, Any]] = [{} for _ in pieces]
    for key, values in arrays.items():
        of_examples = [values[start:stop] for start, stop in pieces] if key in ARGUMENTS else values
        for example, value in zip(examples, of_examples, strict=True):
            example[ARGUMENTS[key] if key in ARGUMENTS else key] = value.tolist()
    return examples
