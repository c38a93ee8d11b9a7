"""The work that is measured: a folder which the command writes and each child process reads. Imports no JAX.

config.json   the run, for jaxft
job.json      the same facts for others, see `Job`
train.npz, evaluate.npz   the encoded examples: tokens, types and labels as flat arrays, and `starts` (n + 1,)
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

WARM = 3  # steps before those that are timed
IGNORED = -100  # label of a token that teaches nothing
BEYOND = 10**6  # position of an answer that teaches nothing
NAMES = {"tokens": "input_ids", "types": "token_type_ids", "token_labels": "labels"}  # of what there is one a token


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


def write_examples(file: Path, encoded, head: str) -> None:
    """`encoded` as in data/encoded.py; `head` says what the targets are."""
    kept = {key: encoded.flat[key] for key in ("tokens", "types") if key in encoded.flat}
    np.savez(file, **kept, **labels_of(encoded, head), starts=encoded.offsets["tokens"])


def labels_of(encoded, head: str) -> dict[str, np.ndarray]:
    """Targets as the Trainer's models take them: `token_labels` (tokens,), all others (examples, ...)."""
    if "targets" not in encoded.flat:
        return {}
    starts, targets = encoded.offsets["tokens"], encoded.flat["targets"]
    if head == "token-classification":
        labels = np.full(starts[-1], IGNORED)
        labels[np.repeat(starts[:-1], encoded.counts) + encoded.flat["at"]] = targets[:, 0]
        return {"token_labels": labels}
    if head == "question-answering":
        found = {}
        for side, name in enumerate(("start_positions", "end_positions")):
            marks = np.flatnonzero(targets[:, side])
            example = np.searchsorted(starts, marks, "right") - 1
            found[name] = np.full(len(starts) - 1, BEYOND)
            found[name][example] = marks - starts[example]
        return found
    return {"labels": targets}


def read_examples(file: Path) -> list[dict]:
    """One dict an example, under the names of the Trainer's models."""
    arrays = dict(np.load(file))
    starts = arrays.pop("starts")
    pieces = list(zip(starts[:-1], starts[1:], strict=True))
    found = [{} for _ in pieces]
    for key, values in arrays.items():
        parts = [values[start:stop] for start, stop in pieces] if key in NAMES else values
        for example, part in zip(found, parts, strict=True):
            example[NAMES.get(key, key)] = part.tolist()
    return found
