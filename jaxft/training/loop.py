"""The training loop: steps, logging, evaluation, checkpoints, and at the end the exported model."""

import contextlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxft.adapters.soft_prompt import SoftPrompt
from jaxft.config import Config
from jaxft.config.component import to_json
from jaxft.evaluation.evaluate import EvalResults, evaluate
from jaxft.models.batch import Batch
from jaxft.models.checkpoint.save import output_problems
from jaxft.models.params import Params
from jaxft.problems import RunInterrupted, RunStopped, raise_problems
from jaxft.reports.report import write_predictions
from jaxft.reports.sinks import sink_problems
from jaxft.training.callback import Callback
from jaxft.training.compiled import evaluation_step
from jaxft.training.disk_space import report_disk_errors
from jaxft.training.export import check_finite, export_prompt, export_state
from jaxft.training.lock import workdir_lock
from jaxft.training.preemption import Preempted, stoppable
from jaxft.training.rounding import scored
from jaxft.training.run import Run, precision, start
from jaxft.training.setup import build
from jaxft.training.shared import Shared

log = logging.getLogger("jaxft")


def train(
    cfg: Config,
    workdir: str | Path,
    extend: bool = False,
    callbacks: Sequence[Callback] = (),
    shared: Shared | None = None,
    part: int = 1,
) -> tuple[Config, dict[str, dict[str, float]]]:
    """Trains, or continues the run in `workdir`.

    Returns the configuration with what the data decided, such as labels, and the last metrics of each evaluation set.

    With `extend`, a run may get more steps or epochs, even if it is complete. `shared` is what other runs have made
    already. With `part` p the run pauses after the first p-th of its steps, rounded up, evaluated and saved; a later
    call goes on from there, to numbers that are those of an unbroken run.
    """
    # Fail now, not at the end of the run.
    raise_problems(sink_problems(cfg.wandb) + output_problems(Path(workdir).absolute() / "model"))
    built = build(cfg, shared=shared)
    with (
        jax.set_mesh(built.mesh),
        precision(built),
        report_disk_errors(Path(workdir)),
        workdir_lock(Path(workdir)),
        contextlib.closing(start(built, Path(workdir), extend, callbacks)) as run,
        run.report.at_the_end(),
    ):
        run.pause = -(-run.total // part)
        if run.done < min(run.pause, run.total) or run.due:
            with stoppable(unsaved=lambda: run.done > run.first) as stop:
                run.open(stop)
                try:
                    if run.due:  # before the first step, or what an earlier process left of an evaluation
                        with run.pace.paused(run.state):
                            measure(run, due(run))
                    if run.done < min(run.pause, run.total):
                        train_step, batch = run.training.step(), run.next_batch()
                    while run.done < min(run.pause, run.total):
                        run.pace.before(run.training.compile, run.state, run.frozen, batch)
                        run.state, metrics = train_step(run.state, run.frozen, batch)
                        run.on_device.append(metrics)
                        run.done += 1
                        if run.done < min(run.pause, run.total):
                            batch = run.next_batch()  # while the devices compute the step
                        after_step(run)
                        if stop.due():
                            raise Preempted
                except Preempted:
                    interrupt(run)
        if run.done == run.total:
            finish(run)
        run.checkpoints.wait()
    return built.cfg, run.results


def after_step(run: Run) -> None:
    """Logs, evaluates and saves, whatever is due."""
    run.tell(lambda callback: callback.on_step(run.done, run.on_device[-1]))
    logs = run.done == run.total or run.done % run.built.cfg.log_every == 0
    names, saving = due(run), saves(run)
    if not (logs or names or saving):
        return  # does not wait for the devices
    if logs or saving:
        run.fetch()
    if logs:
        log_point(run)
    with run.pace.paused(run.state):
        measure(run, due(run))
        if logs or names:
            run.report.refresh()


def saves(run: Run) -> bool:
    """Whether this step gets a checkpoint."""
    return run.done in (run.pause, run.total) or run.done > 0 and run.done % run.built.cfg.save_interval(run.total) == 0


def due(run: Run) -> list[str]:
    """The evaluation sets that are due at this step."""
    cfg, last = run.built.cfg, run.done in (run.pause, run.total)
    return [name for name in run.evals if last or run.done % cfg.eval_interval(name, run.total) == 0]


def measure(run: Run, names: list[str]) -> None:
    """Evaluates the sets and saves a checkpoint if one is due.

    `run.due` is not empty if an earlier process stopped during this evaluation: these sets are left.
    """
    run.due = run.due or list(names)
    while run.due:
        before = due(run)
        run_eval(run, run.due[0])
        run.due.pop(0)
        run.due += [name for name in due(run) if name not in before]  # all sets, if this evaluation ended the run
    if not saves(run):
        return
    run.fetch()
    if run.pending and run.done == run.total:
        log_point(run)
    save(run, due(run))


def log_point(run: Run) -> None:
    """Writes metrics since the last log point: sums over its steps, divided once. Raises RunStopped on divergence."""
    numbers: dict[str, float] = {}
    for name in run.pending[0]["sums"]:
        total = sum(metrics["sums"][name][0] for metrics in run.pending)
        count = sum(metrics["sums"][name][1] for metrics in run.pending)
        numbers[name] = total / count if count else float("nan")
    last = run.pending[-1]
    numbers |= {"learning_rate": last["learning_rate"], "grad_norm": last["grad_norm"]}
    numbers["epoch"] = run.batches.order.seen(run.done) / len(run.batches.encoded)
    numbers["skipped"] = int(run.state.skipped)
    timed = run.pending[-run.pace.steps :]  # the others are of an earlier process
    numbers |= run.pace.numbers(sum(metrics["tokens"] for metrics in timed))
    run.writer.write(run.done, "train", numbers)
    run.tell(lambda callback: callback.on_log(run.done, numbers))
    bad = [metrics for metrics in run.pending if not metrics["finite"]]
    run.pending.clear()
    if bad and run.built.cfg.nonfinite == "stop":
        raise RunStopped(
            f"the loss or its gradient was NaN or infinite in {len(bad)} of the steps up to {run.done}; these updates "
            "were not made. Try a smaller config.lr, a longer warm-up, config.clip=1.0 or config.dtype='float32'; "
            "config.nonfinite='skip' goes on without such updates. The last checkpoint is untouched."
        )


def run_eval(run: Run, name: str) -> None:
    """Evaluates one set with the current weights, and writes the results."""

    def step(batch: Batch) -> EvalResults:
        return run.eval_step(run.state.params, run.frozen, batch)

    batches = run.stop.between(run.evals[name])
    evaluate_predictions = run.built.evaluate_predictions(name, run.evals[name].encoded)
    run.results[name], figures, units = evaluate(step, batches, run.built.put, run.built.task, evaluate_predictions)
    run.report.draw(run.done, name, figures)
    if units:
        write_predictions(run.workdir, name, units.files)
    run.writer.write(run.done, name, run.results[name])
    run.tell(lambda callback: callback.on_evaluation(run.done, name, run.results[name]))
    run.stop_early(name)


def save(run: Run, evaluated: list[str]) -> None:
    """Starts an asynchronous checkpoint, ranked by the metrics of the sets evaluated at this step."""
    metrics = {f"{name}/{key}": value for name in evaluated for key, value in run.results[name].items()}
    best = run.checkpoints.ranking.metric
    if best is not None and best.partition("/")[0] in evaluated and not math.isfinite(metrics.get(best, math.nan)):
        found = metrics.get(best, "missing")
        log.warning("step %d: %s is %s, so that this checkpoint cannot be the best", run.done, best, found)
    record = {"config": to_json(run.built.cfg), "pending": run.pending, "results": run.results, "due": run.due}
    record |= {"log": run.log(), "ended": run.ended, "early_stopping": run.patience.to_json()}
    record["ends"] = run.batches.order.ends
    run.checkpoints.save(run.done, run.state, record, metrics)


def interrupt(run: Run) -> None:
    """Saves this step if it is not saved, and raises RunInterrupted."""
    if run.done not in run.checkpoints.steps():
        run.fetch()
        save(run, [])
    run.checkpoints.wait()
    raise RunInterrupted(run.stop.asked.number, f"step {run.done} is saved: the same command goes on from there")


def finish(run: Run) -> None:
    """Exports the best or last checkpoint to `model/`, unless an earlier process did."""
    run.checkpoints.wait()
    target = run.workdir / "model"
    step, score = run.checkpoints.chosen()
    assert step is not None  # every run saves its last step
    run.report.facts["ended"] = run.ended
    run.report.facts["model_score"] = score  # by save.best; None: the newest step
    if run.first == run.total and target.exists():
        run.report.facts["model_step"] = step
        run.results = run.checkpoints.record(step)["results"]
        log.info("the run is complete: %d steps", run.total)
        return
    state = run.state
    if step != run.total:
        state, saved = run.checkpoints.restore(step, run.training.abstract_state())
        run.results = saved["results"]
    if score is not None:
        log.info("step %d was best by %s: %.6g", step, run.built.cfg.save.best, score)
    write_model(run, {**state.params, **run.frozen}, target, step)
    run.report.facts["model_step"] = step


def write_model(run: Run, params: Params, target: Path, step: int) -> None:
    """Writes the model of a step: with adapters merged into the weights; a soft prompt as an adapter."""
    if isinstance(run.built.cfg.tune, SoftPrompt):
        export_prompt(run.built, run.built.cfg.tune, params, target, step, run.results)
        return
    built, params = run.built.merged(params)
    check_finite(built, params, target, step)
    trained = {path: params[path] for path in built.trained}
    frozen = {path: value for path, value in params.items() if path not in trained}
    eval_step = run.eval_step if built is run.built else evaluation_step(built)
    how = scored(built, eval_step, run.evals, trained, frozen, run.results)
    export_state(built, params, target, step, run.results, how)
