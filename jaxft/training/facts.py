"""The facts about a run that the report shows besides configuration and metrics: data, sizes, machine, versions."""

import importlib.metadata
import math
import platform
from collections.abc import Mapping
from typing import Any

import jax

import jaxft
from jaxft.data.encoded import Encoded
from jaxft.data.pipeline import Batches, EvalBatches
from jaxft.models.params import Params
from jaxft.tasks.base import Task
from jaxft.training.setup import Setup
from jaxft.training.step import TrainState

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "tokenizers", "numpy")
SAMPLE = 100  # steps whose batches are measured


def run_facts(
    built: Setup, state: TrainState, frozen: Params, batches: Batches, evals: Mapping[str, EvalBatches]
) -> dict[str, Any]:
    """JSON values. On one machine they do not depend on whether the run was interrupted."""
    trained_size, frozen_size = built.sizes()
    examples = len(batches.encoded)
    steps = min(len(batches), math.ceil(examples / built.cfg.batch), SAMPLE)
    arrays = [*jax.tree.leaves(state), *frozen.values()]
    sets: dict[str, Batches | EvalBatches] = {"train": batches, **evals}
    return {
        "steps": len(batches),
        "epochs": batches.order.seen(len(batches)) / examples,
        "epochs_per_step": built.cfg.batch / examples,
        "data": {name: batches.encoded.report.to_json() for name, batches in sets.items()},
        "targets": {name: target_stats(built.task, batches.encoded) for name, batches in sets.items()},
        "batches": {"useful": batches.fill(steps), "shapes": sorted(map(list, batches.shapes(steps)))},
        "parameters": {"trained": trained_size, "frozen": frozen_size, "bytes": sum(array.nbytes for array in arrays)},
        "dtype": str(built.model.dtype),
        "devices": {
            "kind": jax.devices()[0].device_kind,
            "count": built.mesh.size,
            "mesh": dict(built.mesh.shape),
            "processes": jax.process_count(),
        },
        "versions": versions(),
    }


def target_stats(task: Task, encoded: Encoded) -> dict[str, float]:
    """`Task.target_stats` of a set; {} for a task that draws its targets anew at each visit."""
    targets = encoded.flat.get("targets")
    return {} if targets is None else task.target_stats(targets)


def versions() -> dict[str, str]:
    """Versions of jaxft, Python and the packages that a run uses."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"jaxft": jaxft.__version__, "Python": platform.python_version(), **found}
