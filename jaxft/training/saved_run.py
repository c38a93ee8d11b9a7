"""Evaluating and exporting a run in a work directory, and evaluating an exported model."""

import contextlib
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax

from jaxft.adapters.base import PeftMethod
from jaxft.adapters.prompt_files import base_of
from jaxft.adapters.soft_prompt import SoftPrompt
from jaxft.config import Config, load_config
from jaxft.evaluation.baseline import baseline
from jaxft.evaluation.breakdown import Breakdown
from jaxft.evaluation.evaluate import EvalResults, accumulate, finalize
from jaxft.inference.settings import inference_of
from jaxft.models.batch import Batch
from jaxft.models.checkpoint.save import output_problems, place_problems
from jaxft.models.params import Params
from jaxft.problems import UserError, clipped, raise_problems
from jaxft.reports.report import write_predictions
from jaxft.training.best import Best, ranking
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.compiled import compiled_steps, evaluation_step
from jaxft.training.export import check_finite, export_adapter, export_prompt, export_state, inference_settings
from jaxft.training.run import eval_batches, precision
from jaxft.training.setup import Setup, build
from jaxft.training.step import TrainState

log = logging.getLogger("jaxft")
METRICS_ONLY = Breakdown()


def evaluate_run(
    workdir: str,
    step: int | None,
    breakdown: Breakdown = METRICS_ONLY,
    output: str | None = None,
    cfg: Config | None = None,
) -> dict[str, dict[str, Any]]:
    """`evaluate_all` with the checkpoint of a run at `step` (None: the best, else the newest).

    `cfg` is the configuration of the run; None: that in the work directory, which does not hold rows and functions that
    only a program has.
    """
    cfg = cfg or load_config(Path(workdir) / "config.json")
    built = build(cfg, list(cfg.evals))
    with jax.set_mesh(built.mesh), precision(built):
        _, state, record = restore(built, workdir, step)
        built.task = built.task.tuned(built.task.inference(record["results"]))
        _, frozen, _ = built.load()
        return evaluate_all(built, state.params, frozen, breakdown, workdir, output)


def evaluate_model(
    cfg: Config, model: str, breakdown: Breakdown = METRICS_ONLY, output: str | None = None
) -> dict[str, dict[str, Any]]:
    """`evaluate_all` with the weights of a model directory on the evaluation sets of `cfg`. Labels are the model's."""
    if base_of(model) is not None:
        raise UserError(f"{model} is an adapter: evaluate its run with --workdir, or a merged model")
    cfg = replace(cfg, model=model, adapter=None, init="pretrained", quantization=None)
    built = build(cfg, list(cfg.evals))
    saved = inference_of(built.pretrained.directory, built.arch.kind)
    built.task = built.task.tuned(saved)
    own = inference_settings(built, {})
    decoding = asdict(own.decoding) if own.decoding is not None else {}
    saved.departing(max_length=own.max_length, columns=own.columns, **decoding)  # logs the differences
    with jax.set_mesh(built.mesh), precision(built):
        trained, frozen, _ = built.load()
        return evaluate_all(built, trained, frozen, breakdown, output=output)


def export_run(workdir: str, output: str, step: int | None, form: str | None, cfg: Config | None = None) -> int:
    """Writes a checkpoint and returns its step (`step` and `cfg` as for `evaluate_run`).

    `form` is "merged", a Hugging Face directory, or "adapter", a directory of PEFT; None: an adapter for a soft prompt,
    which cannot be merged, else merged.
    """
    cfg = cfg or load_config(Path(workdir) / "config.json")
    method = type(cfg.tune).__name__
    if form == "adapter" and not isinstance(cfg.tune, PeftMethod | SoftPrompt):
        raise UserError(f"--format=adapter is for adapter methods; this run tuned with {method}")
    if form == "merged" and isinstance(cfg.tune, SoftPrompt):
        raise UserError(f"the prompt of {method} cannot be merged into the weights: leave --format out, for an adapter")
    raise_problems(output_problems(Path(output).absolute()) + place_problems(Path(output).absolute()))
    built = build(cfg, [])
    with jax.set_mesh(built.mesh), precision(built):
        restored, state, record = restore(built, workdir, step)
        _, frozen, _ = built.load()
        if isinstance(cfg.tune, PeftMethod) and form == "adapter":
            export_adapter(built, cfg.tune, {**state.params, **frozen}, Path(output), restored, record["results"])
            return restored
        if isinstance(cfg.tune, SoftPrompt):
            export_prompt(built, cfg.tune, {**state.params, **frozen}, Path(output), restored, record["results"])
            return restored
        built, params = built.merged({**state.params, **frozen})
        check_finite(built, params, Path(output), restored)
        export_state(built, params, Path(output), restored, record["results"])
    return restored


def restore(built: Setup, workdir: str, step: int | None) -> tuple[int, TrainState, dict[str, Any]]:
    """(step, state, record) of a checkpoint. Raises UserError if it is missing or damaged."""
    directory = Path(workdir) / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"{workdir} has no checkpoints/: is it the work directory of a run?")
    best = ranking(built.cfg, built.task) if step is None else Best()
    with contextlib.closing(Checkpoints(workdir, built.cfg.save.keep, best)) as checkpoints:
        steps = sorted(checkpoints.steps())
        chosen = checkpoints.chosen()[0] if step is None else step
        if chosen is None or chosen not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{directory} has no checkpoint of step {chosen}: there are {known}")
        try:
            return chosen, *checkpoints.restore(chosen, compiled_steps(built, 1).abstract_state())
        except Exception as error:  # whatever a damaged file raises
            raise UserError(
                f"the checkpoint {directory}/{chosen} cannot be read: {clipped(str(error), 300)}"
            ) from error


def evaluate_all(
    built: Setup,
    trained: Params,
    frozen: Params,
    breakdown: Breakdown,
    workdir: str | None = None,
    output: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Evaluation set -> its metrics, and `interval` and `lines` if `breakdown` asks for them (evaluation/breakdown.py).

    `workdir` is that of the run, if there was one. Files of answers, if the task has any, are written to `output`, else
    to `workdir`.
    """
    task, eval_step = built.task, evaluation_step(built)
    raise_problems(breakdown.problems(task, built.sources))

    def step(batch: Batch) -> EvalResults:
        return eval_step(trained, frozen, batch)

    def measure(name: str) -> dict[str, Any]:
        rows = built.sources[name]  # `encode` drops it from `sources`
        batches = eval_batches(built, name)
        values = breakdown.read(rows, batches.encoded)
        breakdown.check_outputs(task, step, built.put(batches[0]))
        sums, outputs = accumulate(step, batches, built.put)
        numbers, _, units = finalize(task, sums, outputs, built.evaluate_predictions(name, batches.encoded))
        files = units.files if units else {}
        if folder := output or workdir:
            write_predictions(Path(folder), name, files)
        if output and not files:
            log.warning("%s: nothing to write to %s: jaxft.predict writes the answers of this task", name, output)
        details = breakdown.compute(task, outputs, batches.encoded, values, units)
        named = {"positive_class": task.positive_class} if task.positive_class is not None else {}
        return {**numbers, **named, **baseline(name, task, batches.encoded, workdir), **details}

    return {name: measure(name) for name in built.cfg.evals}
