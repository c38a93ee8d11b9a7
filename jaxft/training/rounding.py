"""What rounding does to a model that was trained in float32 and is written in another number format."""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxft.data.pipeline import EvalBatches
from jaxft.evaluation.evaluate import EvalResults, evaluate
from jaxft.models.batch import Batch
from jaxft.models.checkpoint.save import dtype_in_range, formats
from jaxft.models.params import Params, names
from jaxft.training.setup import Setup

log = logging.getLogger("jaxft")


class Written(NamedTuple):
    """The number formats of the written weights, such as ["float16"], and the metrics of the rounded ones."""

    dtype: str  # argument of save_model
    formats: list[str]
    results: dict[str, dict[str, float]] = {}  # by evaluation set; empty if nothing is rounded or evaluated

    def __str__(self) -> str:
        return " and ".join(self.formats)


def written(built: Setup, params: Params) -> Written:
    """The formats that config.export_dtype gives `params`: float32 where the range of another is too small."""
    dtype = dtype_in_range(built.cfg.export_dtype, built.model, params, built.pretrained, built.arch)
    found = {kind.name for kinds in trained_formats(built, dtype).values() for kind in kinds}
    return Written(dtype, sorted(found))


def trained_formats(built: Setup, dtype: str) -> dict[str, list[np.dtype]]:
    """Stored path of each trained parameter -> the format in which each of its names is written."""
    tensor_maps = formats(built.model, built.pretrained, built.arch, dtype)
    known = {name: kind for tensor_map, kind in tensor_maps for name in tensor_map.jaxft}
    usual = np.dtype(np.float32)
    return {path: [known.get(name, usual) for name in names(built.model, path)] for path in built.trained}


def rounded(built: Setup, params: Params, dtype: str) -> Params:
    """The trained parameters with the values of the written file, as float32."""
    made = {}
    for path, kinds in trained_formats(built, dtype).items():
        made[path] = params[path]
        for kind in {kind for kind in kinds if kind.itemsize < 4}:
            # Not in one program, in which XLA may drop a conversion and its inverse.
            there = params[path].astype(kind)
            if set(kinds) == {kind}:
                made[path] = there.astype(jnp.float32)
                continue
            rows = np.reshape([one == kind for one in kinds], (-1,) + (1,) * (there.ndim - 1))
            made[path] = jnp.where(rows, there, made[path])
    return made


def scored(
    built: Setup,
    eval_step: Callable[[Params, Params, Batch], EvalResults],
    evals: Mapping[str, EvalBatches],
    trained: Params,
    frozen: Params,
    before: Mapping[str, Mapping[str, float]],
) -> Written:
    """`written`, with the metrics of the rounded weights on the sets of `evals` if rounding changes any.

    `before` are the metrics of the weights as they are. Logs which metrics differ.
    """
    how = written(built, {**trained, **frozen})
    if how.formats == ["float32"]:
        return how
    weights = rounded(built, trained, how.dtype)

    def step(batch: Batch) -> EvalResults:
        return eval_step(weights, frozen, batch)

    results = {}
    for name in sorted(before.keys() & evals.keys()):  # the same order in every process
        evaluate_predictions = built.evaluate_predictions(name, evals[name].encoded)
        results[name] = evaluate(step, evals[name], built.put, built.task, evaluate_predictions).numbers
        log.info("%s with the weights rounded to %s: %s", name, how, differences(before[name], results[name]))
    return how._replace(results=results)


def differences(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """The metrics that differ in four digits, as text."""
    pairs = {name: (f"{before[name]:.4f}", f"{value:.4f}") for name, value in after.items() if name in before}
    changed = [f"{name} {new} instead of {old}" for name, (old, new) in pairs.items() if old != new]
    return ", ".join(changed) or "the same to four digits"
