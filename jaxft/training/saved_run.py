"""What can be done with a run that lies in a work directory, or with an exported model: measure it, write it out."""

import contextlib
import logging
from dataclasses import asdict, replace
from pathlib import Path

import jax

from jaxft.config import Config, load_config
from jaxft.evaluation.baseline import baseline
from jaxft.evaluation.breakdown import Breakdown
from jaxft.evaluation.evaluate import gather, judged
from jaxft.inference.settings import inference_of
from jaxft.models.checkpoint.save import output_problems, place_problems
from jaxft.problems import UserError, clipped, raise_problems
from jaxft.reports.report import write_predictions
from jaxft.training.best import Best, ranking
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.compiled import evaluation_step, training
from jaxft.training.export import check_finite, export_state, inference_settings
from jaxft.training.run import eval_batches, precision
from jaxft.training.setup import Setup, build
from jaxft.training.step import TrainState

log = logging.getLogger("jaxft")
PLAIN = Breakdown()


def evaluate_run(
    workdir: str, step: int | None, detail: Breakdown = PLAIN, output: str | None = None
) -> dict[str, dict]:
    """`evaluate_all` of a run, by one of its checkpoints (None: the best, else the newest)."""
    cfg = load_config(Path(workdir) / "config.json")
    built = build(cfg, list(cfg.evals))
    with jax.set_mesh(built.mesh), precision(built):
        _, state, _ = restore(built, workdir, step)
        _, frozen, _ = built.load()
        return evaluate_all(built, state.params, frozen, detail, workdir, output)


def evaluate_model(cfg: Config, model: str, detail: Breakdown = PLAIN, output: str | None = None) -> dict[str, dict]:
    """`evaluate_all` of the sets of `cfg` by the weights in a model directory. Labels are the model's own."""
    built = build(replace(cfg, model=model, init="pretrained"), list(cfg.evals))
    own = inference_settings(built, {})
    decoding = asdict(own.decoding) if own.decoding is not None else {}
    kept = inference_of(built.pretrained.directory, built.arch.kind)
    kept.departing(max_length=own.max_length, columns=own.columns, **decoding)  # which says where they differ
    with jax.set_mesh(built.mesh), precision(built):
        trained, frozen, _ = built.load()
        return evaluate_all(built, trained, frozen, detail, output=output)


def export_run(workdir: str, output: str, step: int | None, form: str) -> int:
    """Write a checkpoint as a Hugging Face directory; returns its step."""
    cfg = load_config(Path(workdir) / "config.json")
    if form == "adapter":
        raise UserError(f"--format=adapter is for adapter methods; this run tuned with {type(cfg.tune).__name__}")
    raise_problems(output_problems(Path(output).absolute()) + place_problems(Path(output).absolute()))
    built = build(cfg, [])
    with jax.set_mesh(built.mesh), precision(built):
        step, state, record = restore(built, workdir, step)
        _, frozen, _ = built.load()
        params = {**state.params, **frozen}
        check_finite(built, params, Path(output), step)
        export_state(built, params, Path(output), step, record["results"])
    return step


def restore(built: Setup, workdir: str, step: int | None) -> tuple[int, TrainState, dict]:
    """(step, state, record) of a checkpoint that must be there and whole."""
    directory = Path(workdir) / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"{workdir} has no checkpoints/: is it the work directory of a run?")
    best = ranking(built.cfg, built.task) if step is None else Best()
    with contextlib.closing(Checkpoints(workdir, built.cfg.save.keep, best)) as checkpoints:
        steps = sorted(checkpoints.steps())
        chosen = checkpoints.chosen()[0] if step is None else step
        if chosen not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{directory} has no checkpoint of step {chosen}: there are {known}")
        try:
            return chosen, *checkpoints.restore(chosen, training(built, 1).abstract_state())
        except Exception as error:  # whatever a damaged file provokes
            raise UserError(
                f"the checkpoint {directory}/{chosen} cannot be read: {clipped(str(error), 300)}"
            ) from error


def evaluate_all(
    built: Setup, trained, frozen, detail: Breakdown, workdir: str | None = None, output: str | None = None
) -> dict[str, dict]:
    """By evaluation set its metrics, and what `detail` asks for.

    Besides the metrics, all of them numbers, there may be `interval` and `lines` (evaluation/breakdown.py). Answers,
    where the task gives some, go to `output`, else to `workdir`, which is that of the run if there was one.
    """
    task, run = built.task, evaluation_step(built)
    raise_problems(detail.problems(task, built.sources))

    def step(batch):
        return run(trained, frozen, batch)

    def measure(name):
        rows = built.sources[name]  # which encoding releases
        batches = eval_batches(built, name)
        values = detail.read(rows, batches.encoded)
        detail.check_kept(task, step, built.put(batches[0]))
        sums, kept = gather(step, batches, built.put)
        numbers, _, units = judged(task, sums, kept, built.evaluate_predictions(name, batches.encoded))
        files = units.files if units else {}
        if folder := output or workdir:
            write_predictions(Path(folder), name, files)
        if output and not files:
            log.warning("%s: nothing to write to %s: jaxft.predict writes the answers of this task", name, output)
        more = baseline(name, task, batches.encoded, workdir) | detail.of(task, kept, batches.encoded, values, units)
        return numbers | more

    return {name: measure(name) for name in built.cfg.evals}
