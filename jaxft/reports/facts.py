"""What the report says of a run besides its configuration and its numbers: data, sizes, machine, versions."""

import importlib.metadata
import math
import platform

import jax

import jaxft

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "tokenizers", "numpy")
SAMPLE = 100  # steps whose batches are looked at


def gather(run) -> dict:
    """JSON values; equal for a run that goes on and one that was never stopped, on one machine."""
    built, batches = run.built, run.batches
    trained, frozen = built.sizes()
    examples = len(batches.encoded)
    steps = min(run.total, math.ceil(examples / built.cfg.batch), SAMPLE)
    arrays = [*jax.tree.leaves(run.state), *run.frozen.values()]
    sets = {"train": batches, **run.evals}
    return {
        "steps": run.total,
        "epochs": batches.order.seen(run.total) / examples,
        "epochs_per_step": built.cfg.batch / examples,
        "data": {name: one.encoded.report for name, one in sets.items()},
        "targets": {name: target_stats(built.task, one.encoded) for name, one in sets.items()},
        "batches": {"useful": batches.fill(steps), "shapes": sorted(map(list, batches.shapes(steps)))},
        "parameters": {"trained": trained, "frozen": frozen, "bytes": sum(array.nbytes for array in arrays)},
        "dtype": str(built.model.dtype),
        "devices": {
            "kind": jax.devices()[0].device_kind,
            "count": built.mesh.size,
            "mesh": dict(built.mesh.shape),
            "processes": jax.process_count(),
        },
        "versions": versions(),
    }


def target_stats(task, encoded) -> dict[str, float]:
    """What a set's targets look like; {} where the task does not say, or makes them anew at each visit."""
    targets = encoded.flat.get("targets")
    return {} if targets is None else task.target_stats(targets)


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"jaxft": jaxft.__version__, "Python": platform.python_version(), **found}
