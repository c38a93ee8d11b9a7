"""What the number format of the written weights does to a model that was trained in float32."""

import logging
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxft.evaluation.evaluate import evaluate
from jaxft.models.checkpoint.save import dtype_in_range, formats
from jaxft.models.params import Params, names
from jaxft.training.setup import Setup

log = logging.getLogger("jaxft")


class Written(NamedTuple):
    """In which formats the trained weights are written, such as ["float16"], and what the rounded ones score."""

    dtype: str  # for save_model
    formats: list[str]
    results: dict[str, dict[str, float]] = {}  # by evaluation set; none where nothing is rounded or evaluated

    def __str__(self) -> str:
        return " and ".join(self.formats)


def written(built: Setup, params: Params) -> Written:
    """How `params` are written by config.export_dtype, or in float32 where its range is too small."""
    dtype = dtype_in_range(built.cfg.export_dtype, built.model, params, built.pretrained, built.arch)
    found = {kind.name for kinds in trained_formats(built, dtype).values() for kind in kinds}
    return Written(dtype, sorted(found))


def trained_formats(built: Setup, dtype: str) -> dict[str, list[np.dtype]]:
    """By stored path of what trains, the written format of each of its names."""
    tensor_maps = formats(built.model, built.pretrained, built.arch, dtype)
    known = {name: kind for tensor_map, kind in tensor_maps for name in tensor_map.jaxft}
    usual = np.dtype(np.float32)
    return {path: [known.get(name, usual) for name in names(built.model, path)] for path in built.trained}


def rounded(built: Setup, params: Params, dtype: str) -> Params:
    """The trained parameters, float32, with the values that they have in the written file."""
    made = {}
    for path, kinds in trained_formats(built, dtype).items():
        made[path] = params[path]
        for kind in {kind for kind in kinds if kind.itemsize < 4}:
            # Two programs: within one XLA may leave out a conversion and the one back.
            there = params[path].astype(kind)
            if set(kinds) == {kind}:
                made[path] = there.astype(jnp.float32)
                continue
            rows = np.reshape([one == kind for one in kinds], (-1,) + (1,) * (there.ndim - 1))
            made[path] = jnp.where(rows, there, made[path])
    return made


def scored(run, trained: Params, frozen: Params, before: dict[str, dict[str, float]]) -> Written:
    """`written`, with the evaluation sets of a run measured once more where rounding changes the weights.

    `before` are the metrics of the weights as they are; the log says what differs.
    """
    built = run.built
    how = written(built, {**trained, **frozen})
    if how.formats == ["float32"]:
        return how
    weights = rounded(built, trained, how.dtype)

    def step(batch):
        return run.eval_step(weights, frozen, batch)

    results = {}
    for name in sorted(before.keys() & run.evals.keys()):  # every process in the same order
        evaluate_predictions = built.evaluate_predictions(name, run.evals[name].encoded)
        results[name] = evaluate(step, run.evals[name], built.put, built.task, evaluate_predictions).numbers
        log.info("%s with the weights rounded to %s: %s", name, how, moved(before[name], results[name]))
    return how._replace(results=results)


def moved(before: dict[str, float], after: dict[str, float]) -> str:
    """Which metrics differ, in four digits."""
    pairs = {name: (f"{before[name]:.4f}", f"{value:.4f}") for name, value in after.items() if name in before}
    said = [f"{name} {new} instead of {old}" for name, (old, new) in pairs.items() if old != new]
    return ", ".join(said) or "the same to four digits"
