"""jaxft's side of a benchmark: one measurement, printed as JSON."""

import contextlib
import json
import logging
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from jaxft.benchmark.job import WARMUP_STEPS, read_job
from jaxft.benchmark.loading import measure
from jaxft.cli import command
from jaxft.cli.command import Flag
from jaxft.config import Save, load_config
from jaxft.evaluation.evaluate import evaluate
from jaxft.host.memory import peak_bytes
from jaxft.inference.model import load
from jaxft.training.compiled import evaluation_step
from jaxft.training.loop import log_point, save
from jaxft.training.preemption import PreemptionHandler
from jaxft.training.run import Run, eval_batches, precision, start
from jaxft.training.setup import build


def measure_load(folder: Path) -> dict[str, float]:
    """Loading a model."""
    job = read_job(folder)
    jax.devices()

    def arrays() -> list[np.ndarray]:
        params = jax.block_until_ready(load(job.model, job.head).params)
        return [np.asarray(value) for value in jax.tree.leaves(params)]

    return measure(arrays)


def measure_train(folder: Path) -> dict[str, Any]:
    """Training steps, a log point and a checkpoint, by the code of the training loop."""
    job = read_job(folder)
    # The configuration may have fewer steps than are timed.
    built = build(replace(load_config(folder / "config.json"), evals={}, save=Save(), steps=10**9, epochs=None))
    with (
        tempfile.TemporaryDirectory() as workdir,
        jax.set_mesh(built.mesh),
        precision(built),
        contextlib.closing(start(built, Path(workdir))) as run,
    ):
        run.open(PreemptionHandler())
        numbers = timed_steps(run, job.steps)
        begin = time.perf_counter()
        run.fetch()
        log_point(run)
        numbers["log_seconds"] = time.perf_counter() - begin
        numbers["peak_bytes"] = peak_bytes()
        begin = time.perf_counter()
        save(run, [])
        numbers["save_seconds"] = time.perf_counter() - begin
        run.checkpoints.wait()
        numbers["write_seconds"] = time.perf_counter() - begin
    return numbers


def timed_steps(run: Run, steps: int) -> dict[str, Any]:
    """Times steps from the end of the step before, so that waiting for data is included.

    The first step of each shape counts as compilation.
    """
    step, batch = run.training.step(), run.next_batch()
    seconds: list[float] = []
    waits: list[float] = []
    shapes: set[tuple[int, ...]] = set()
    useful, padded, compiling = 0, 0, 0.0
    while len(seconds) < steps:
        begin = time.perf_counter()
        run.pace.before(run.training.compile, run.state, run.frozen, batch)
        rows, length = shape = batch["tokens"].shape
        if new := shape not in shapes:
            shapes.add(shape)
        else:
            begin = time.perf_counter()
        run.state, metrics = step(run.state, run.frozen, batch)
        run.on_device.append(metrics)
        run.done += 1
        waiting = time.perf_counter()
        batch = run.next_batch()
        waited = time.perf_counter() - waiting
        jax.block_until_ready((metrics, run.state))
        took = time.perf_counter() - begin
        if new:
            compiling += took
        elif run.done > WARMUP_STEPS:
            seconds.append(took)
            waits.append(waited)
            useful, padded = useful + int(metrics.tokens), padded + rows * length
    return {
        "step_seconds": statistics.median(seconds),
        "steps": seconds,
        "useful_tokens_per_second": useful / sum(seconds),
        "padded_tokens_per_second": padded / sum(seconds),
        "useful_share": useful / padded,
        "data_seconds": statistics.median(waits),
        "compile_seconds": compiling,
    }


def measure_evaluate(folder: Path) -> dict[str, float]:
    """Evaluation of the first set; its shapes are compiled before."""
    cfg = load_config(folder / "config.json")
    name = next(iter(cfg.evals))
    built = build(cfg, ["train", name])  # the task takes its labels from the training rows
    with jax.set_mesh(built.mesh), precision(built):
        batches = eval_batches(built, name)
        trained, frozen, _ = built.load()
        step = evaluation_step(built)
        begin = time.perf_counter()
        shapes = {batch["tokens"].shape: batch for batch in batches}
        for batch in shapes.values():
            jax.block_until_ready(step(trained, frozen, built.put(batch)))
        compiling = time.perf_counter() - begin
        begin = time.perf_counter()
        evaluate(lambda batch: step(trained, frozen, batch), batches, built.put, built.task)
        seconds = time.perf_counter() - begin
    useful = int(batches.encoded.lengths.sum())
    padded = sum(batch["tokens"].size for batch in batches)
    return {
        "seconds": seconds,
        "useful_tokens_per_second": useful / seconds,
        "padded_tokens_per_second": padded / seconds,
        "useful_share": useful / padded,
        "compile_seconds": compiling,
        "peak_bytes": peak_bytes(),
    }


MEASURES = {"load": measure_load, "train": measure_train, "evaluate": measure_evaluate}


def main(flags: SimpleNamespace) -> None:
    """Prints one measurement."""
    logging.getLogger("jaxft").setLevel(logging.WARNING)
    print(json.dumps(MEASURES[flags.row](Path(flags.folder))))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        Flag("row", "what to measure", required=True, choices=tuple(MEASURES)),
        Flag("folder", "the job (job.py)", required=True, value="DIR"),
        command.ALLOW_IMPORT,
    )
