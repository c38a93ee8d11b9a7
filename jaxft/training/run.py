"""A run in progress: data, weights, optimizer and checkpoints, restored to where an earlier process stopped."""

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config import save_config
from jaxft.config.component import to_json
from jaxft.data.order import run_ends
from jaxft.data.pipeline import Batches, EvalBatches, train_iterator
from jaxft.evaluation.evaluate import EvalResults
from jaxft.models.batch import Batch
from jaxft.models.checkpoint.tokenizer import padding_id
from jaxft.models.params import Params
from jaxft.parallel.mesh import data_shards, own_shards
from jaxft.problems import raise_problems
from jaxft.reports.format import human
from jaxft.reports.records import mend
from jaxft.reports.report import Report, replace_text
from jaxft.reports.sinks import Writer
from jaxft.training.best import ranking, stopping_ranking
from jaxft.training.callback import Callback, asked_to_end
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.compiled import CompiledSteps, compiled_steps, evaluation_step, idle_problems
from jaxft.training.disk_space import check_space
from jaxft.training.early_stopping import Patience
from jaxft.training.facts import run_facts
from jaxft.training.preemption import PreemptionHandler
from jaxft.training.resume import Former, check_growth, check_origin, former_run, log_growth, origin_of
from jaxft.training.setup import Setup
from jaxft.training.step import StepMetrics, TrainState
from jaxft.training.throughput import Throughput

log = logging.getLogger("jaxft")
FEW = 100  # steps of a run; BERT on RTE, a small set of GLUE, has 234: 3 epochs of 2,490 rows, 32 at a time


@dataclass
class Run:
    """The state of the training loop."""

    built: Setup
    training: CompiledSteps
    workdir: Path
    total: int  # steps
    batches: Batches
    evals: dict[str, EvalBatches]
    checkpoints: Checkpoints
    state: TrainState
    frozen: Params
    patience: Patience
    callbacks: Sequence[Callback] = ()
    first: int = 0  # steps that earlier processes did
    done: int = 0  # steps that are done
    pending: list[dict[str, Any]] = field(default_factory=list)  # host metrics of steps since the last log point
    results: dict[str, dict[str, float]] = field(default_factory=dict)  # latest metrics by evaluation set
    due: list[str] = field(default_factory=list)  # sets still to be evaluated at this step
    pause: int = 0  # the step after which this process stops, maybe before the last; 0: not yet decided
    ended: str | None = None  # why the run ended before its last planned step
    report: Report = field(init=False)  # set by `start`

    def __post_init__(self) -> None:
        self.opened = contextlib.ExitStack()  # closes all, in reverse order, whatever one of them raises
        self.opened.callback(self.checkpoints.close)

    def open(self, stop: PreemptionHandler) -> None:
        """Starts data threads, writers and the stopwatch."""
        self.stop = stop
        self.writer = Writer(self.workdir, self.first, self.total, self.built.cfg.wandb, self.due)
        self.opened.callback(self.writer.close)
        self.opened.callback(self.report.close)
        self.report.open(self.first)
        self.pace = Throughput(self.built, len(self.report.facts["batches"]["shapes"]), self.writer.activity)
        self.iterator = train_iterator(self.batches, self.first)
        self.opened.callback(self.iterator.close)
        self.on_device: list[StepMetrics] = []

    def log(self) -> dict[str, Any]:
        """What a checkpoint records of metrics.jsonl and pictures.jsonl."""
        pictures = self.report.pictures
        return {"metrics": self.writer.known(), "pictures": {"lines": pictures.count} if pictures else {}}

    @functools.cached_property
    def eval_step(self) -> Callable[[Params, Params, Batch], EvalResults]:
        """(trained, frozen, batch) -> results, jitted."""
        return evaluation_step(self.built)

    def close(self) -> None:
        """Ends what `open` started."""
        self.opened.close()

    def tell(self, call: Callable[[Callback], bool | None]) -> None:
        """Calls every callback; if one returns True, this step becomes the last one."""
        for callback in self.callbacks:
            if asked_to_end(callback, call(callback)):
                self.end(f"{type(callback).__name__} asked for it")

    def stop_early(self, name: str) -> None:
        """Ends the run if `config.early_stopping` asks for it, after an evaluation of the set `name`."""
        rule = self.built.cfg.early_stopping
        if rule is not None and rule.metric.partition("/")[0] == name and self.done > 0:
            reason = self.patience.observe(self.results[name])
            if reason is not None:
                self.end(reason)

    def end(self, reason: str) -> None:
        """Makes the present step the last one."""
        if self.done < self.total:
            log.info("step %d: the run ends here: %s", self.done, reason)
            self.total, self.ended = self.done, reason

    def next_batch(self) -> Batch:
        """The next batch; its transfer to the devices is asynchronous."""
        batch = next(self.iterator)
        return self.built.put({key: value for key, value in batch.items() if key != "index"})

    def fetch(self) -> None:
        """Copies the metrics of the latest steps to the host; waits for these steps."""
        self.pending += [_on_host(metrics) for metrics in jax.device_get(self.on_device)]
        self.on_device.clear()


def start(built: Setup, workdir: Path, extend: bool = False, callbacks: Sequence[Callback] = ()) -> Run:
    """Encodes the data, loads the weights, and restores the newest checkpoint of the work directory, if there is one.

    With `extend` an existing run may become longer.
    """
    cfg = built.cfg
    workdir.mkdir(parents=True, exist_ok=True)
    former = former_run(cfg, workdir, extend)
    best, patience = ranking(cfg, built.task), Patience(cfg.early_stopping, stopping_ranking(cfg, built.task))
    batches = train_batches(built, former)
    evals = {name: eval_batches(built, name) for name in cfg.evals}
    sets: dict[str, Batches | EvalBatches] = {"train": batches, **evals}
    if former is not None:
        check_origin(built, workdir, former, sets)
        check_growth(batches, former)
    total = len(batches)
    plan = compiled_steps(built, total)
    raise_problems(idle_problems(plan, total))
    trained, frozen, report = built.load()
    checkpoints = Checkpoints(workdir, cfg.save.keep, best)
    state = plan.initial_state(trained)
    run = Run(built, plan, workdir, total, batches, evals, checkpoints, state, frozen, patience, callbacks)
    del trained, state
    log.info("weights: %s", report)
    # The newest readable checkpoint of this work directory; without one, what `load` returned (pretrained or random).
    found = checkpoints.restore_latest(plan.abstract_state())
    if found is None:
        run.due = list(evals) if cfg.eval_on_start else []
    else:
        go_on(run, *found)
    if former is not None:
        log_growth(plan, batches, former, run.done, int(run.state.skipped))
    if run.done < run.total:
        check_space(workdir, *sizes(run))
    if jax.process_index() == 0:
        replace_text(workdir / "origin.json", json.dumps(origin_of(built, sets, batches.order.ends)) + "\n")
        save_config(cfg, workdir / "config.json")
    run.report = Report(workdir, run_facts(built, run.state, frozen, batches, evals))
    describe(run)
    return run


def go_on(run: Run, step: int, state: TrainState, saved: dict[str, Any]) -> None:
    """Puts the run where a checkpoint was made. A run that had ended early has ended, unless it was extended, or its
    early stopping was changed."""
    run.first, run.done, run.state = step, step, state
    run.pending, run.results = saved["pending"], saved["results"]
    run.due = [name for name in saved.get("due", []) if name in run.evals]
    log.info("resumed from the checkpoint of step %d", run.first)
    rule = to_json(run.built.cfg.early_stopping)
    if saved["config"].get("early_stopping") == rule:
        run.patience.restore(saved.get("early_stopping", run.patience.to_json()))
        extended = len(run.batches.order.ends) > len(saved.get("ends", run.batches.order.ends))
        if saved.get("ended") is not None and extended:
            run.patience.waited = 0  # else the next evaluation would end it again
        elif saved.get("ended") is not None:
            run.total, run.ended = run.done, saved["ended"]
    mend_log(run, saved.get("log", {}))


def mend_log(run: Run, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Restores records that metrics.jsonl and pictures.jsonl lack and checkpoints have, and warns of the others.

    `saved` is what `Run.log` returned for the restored checkpoint.
    """
    if jax.process_index() != 0:
        return
    splits = ["train", *run.evals]

    def known() -> list[dict]:
        logs = [record.get("log", {}).get("metrics", {}) for record in run.checkpoints.records()]
        return [record for one in logs for record in one.get("latest", ())]

    sources: dict[str, Callable[[], list[dict]]] = {"metrics": known, "pictures": list}
    for name, records in sources.items():
        count = saved.get(name, {}).get("lines")
        mend(run.workdir / f"{name}.jsonl", run.first, run.due, splits, count, records)


def sizes(run: Run) -> tuple[int, int, int]:
    """(bytes of a checkpoint, number of checkpoints, bytes of the exported model), before compression."""
    cfg = run.built.cfg
    width = {"float16": 2, "bfloat16": 2}.get(cfg.export_dtype, 4)
    weights = sum(x.size for x in jax.tree.leaves((run.state.params, run.frozen)))
    return sum(x.nbytes for x in jax.tree.leaves(run.state)), cfg.save.keep, width * weights


def train_batches(built: Setup, former: Former | None = None) -> Batches:
    """The training batches. The run may continue, and be longer than, a former one."""
    cfg = built.cfg
    multiple = data_shards(built.mesh) * cfg.micro_batches

    def ends(examples: int) -> tuple[int, ...]:
        known = former.ends(examples, cfg.batch) if former else ()
        return run_ends(known, examples, cfg.batch, cfg.steps, cfg.epochs)

    batches = Batches(built.encode("train"), cfg.batching, cfg.batch, **_common(built, multiple), ends=ends)
    log.info("train: %s", batches.encoded.report)
    if cfg.batch > len(batches.encoded):
        log.warning("config.batch is %d, but there are %d examples", cfg.batch, len(batches.encoded))
    return batches


def eval_batches(built: Setup, name: str) -> EvalBatches:
    """The batches of an evaluation set."""
    cfg = built.cfg
    shards = data_shards(built.mesh)
    batch = -(-cfg.eval_batch(name) // shards) * shards
    batches = EvalBatches(built.encode(name), cfg.batching, batch, **_common(built, shards))
    log.info("%s: %s", name, batches.encoded.report)
    return batches


def describe(run: Run) -> None:
    """Logs sizes, devices and batches before the first step."""
    cfg, facts = run.built.cfg, run.report.facts
    parameters, devices, batches = facts["parameters"], facts["devices"], facts["batches"]
    shape = " x ".join(f"{axis} {size}" for axis, size in devices["mesh"].items())
    log.info(
        "parameters: %s train, %s frozen, %s compute",
        human(parameters["trained"]),
        human(parameters["frozen"]),
        facts["dtype"],
    )
    gigabytes = parameters["bytes"] / 2**30
    log.info("memory: %.2f GiB of weights and optimizer over %d devices (%s)", gigabytes, devices["count"], shape)
    log.info(
        "batch: %d examples in %d micro-batches, %.1f%% of the tokens useful, shapes %s",
        cfg.batch,
        cfg.micro_batches,
        100 * batches["useful"],
        ", ".join(f"{rows} x {length}" for rows, length in batches["shapes"]),
    )
    log.info("steps: %d, of which %d are done", run.total, run.first)
    if run.total < FEW and run.first == 0:
        log.warning(
            "%d steps are few: most models need %d or more to learn a task (config.epochs, or a smaller config.batch)",
            run.total,
            FEW,
        )


def precision(built: Setup) -> contextlib.AbstractContextManager[None]:
    """A context in which float32 products are exact: accelerators multiply float32 in fewer bits by default."""
    if built.model.dtype == jnp.float32 and built.mesh.devices.flat[0].platform != "cpu":
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def _common(built: Setup, multiple: int) -> dict[str, Any]:
    return {
        "seed": built.cfg.seed,
        "random_transform": built.random_transform,
        "max_predictions": built.task.max_predictions,
        "transformed_length": built.transformed_length,
        "rows_multiple": multiple,
        "max_len": (built.setting.max_len or built.cfg.max_len) + (built.virtual.count if built.virtual else 0),
        "pad_id": padding_id(built.setting.tokenizer),
        "host": (own_shards(built.mesh), data_shards(built.mesh)),
    }


def _on_host(metrics: StepMetrics) -> dict[str, Any]:
    """The metrics of one step as JSON values, exact to the last bit."""
    sums = {name: [float(mean.total), float(mean.count)] for name, mean in metrics.sums.items()}
    return {
        "sums": sums,
        "grad_norm": float(metrics.grad_norm),
        "tokens": int(metrics.tokens),
        "learning_rate": float(metrics.learning_rate),
        "finite": bool(metrics.finite),
    }
