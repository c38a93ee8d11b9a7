"""A run in progress: its data, weights, optimizer and checkpoints, brought to where an earlier process left them."""

import contextlib
import functools
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxft.config import save_config
from jaxft.data.order import run_ends
from jaxft.data.pipeline import Batches, EvalBatches, train_iterator
from jaxft.models.checkpoint.tokenizer import padding_id
from jaxft.parallel.mesh import data_shards, own_shards
from jaxft.problems import raise_problems
from jaxft.reports.facts import gather
from jaxft.reports.format import human
from jaxft.reports.records import mend
from jaxft.reports.report import Report, replace_text
from jaxft.reports.sinks import Writer
from jaxft.training.best import ranking
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.compiled import CompiledSteps, evaluation_step, idle_problems, training
from jaxft.training.disk_space import check_space
from jaxft.training.preemption import PreemptionHandler
from jaxft.training.resume import Former, check_growth, check_origin, former_run, origin_of, tell_growth
from jaxft.training.setup import Setup
from jaxft.training.step import StepMetrics, TrainState
from jaxft.training.throughput import Throughput

log = logging.getLogger("jaxft")


@dataclass
class Run:
    """Everything that lives as long as the loop."""

    built: Setup
    training: CompiledSteps
    workdir: Path
    total: int  # steps
    batches: Batches
    evals: dict[str, EvalBatches]
    checkpoints: Checkpoints
    state: TrainState
    frozen: dict[str, jax.Array]
    first: int = 0  # steps that were done before this process
    done: int = 0  # steps that are done
    pending: list[dict] = field(default_factory=list)  # host metrics of steps since the last log point
    results: dict[str, dict[str, float]] = field(default_factory=dict)  # latest metrics by evaluation set
    due: list[str] = field(default_factory=list)  # sets whose evaluation at this step is not done yet
    report: Report | None = None  # from `start` on

    def __post_init__(self):
        self.opened = contextlib.ExitStack()  # closed from the last to the first, whatever some of them meet
        self.opened.callback(self.checkpoints.close)

    def open(self, stop: PreemptionHandler) -> None:
        """Start what runs beside the loop: data threads, writers, the clock."""
        self.stop = stop
        self.writer = Writer(self.workdir, self.first, self.total, self.built.cfg.wandb, self.due)
        self.opened.callback(self.writer.close)
        self.opened.callback(self.report.close)
        self.report.open(self.first)
        self.pace = Throughput(self.built)
        self.iterator = train_iterator(self.batches, self.first)
        self.opened.callback(self.iterator.close)
        self.on_device: list[StepMetrics] = []

    def log(self) -> dict:
        """What a checkpoint keeps of the files with a record a line."""
        pictures = self.report.pictures
        return {"metrics": self.writer.known(), "pictures": {"lines": pictures.count} if pictures else {}}

    @functools.cached_property
    def eval_step(self):
        return evaluation_step(self.built)

    def close(self) -> None:
        self.opened.close()

    def next_batch(self) -> dict[str, jax.Array]:
        """The next batch, on its way to the devices."""
        batch = next(self.iterator)
        return self.built.put({key: value for key, value in batch.items() if key != "index"})

    def fetch(self) -> None:
        """Bring the metrics of the latest steps to the host; waits for these steps."""
        self.pending += [_on_host(metrics) for metrics in jax.device_get(self.on_device)]
        self.on_device.clear()


def start(built: Setup, workdir: Path, extend: bool = False) -> Run:
    """Encode the data, load the weights, and take up the newest checkpoint if the work directory has one.

    With `extend` the run that is there may be longer than it was.
    """
    cfg = built.cfg
    workdir.mkdir(parents=True, exist_ok=True)
    former = former_run(cfg, workdir, extend)
    best = ranking(cfg, built.task)
    batches = train_batches(built, former)
    evals = {name: eval_batches(built, name) for name in cfg.evals}
    sets = {"train": batches, **evals}
    if former is not None:
        check_origin(built, workdir, former, sets)
        check_growth(batches, former)
    total = len(batches)
    plan = training(built, total)
    raise_problems(idle_problems(plan, total))
    trained, frozen, report = built.load()
    checkpoints = Checkpoints(workdir, cfg.save.keep, best)
    run = Run(built, plan, workdir, total, batches, evals, checkpoints, plan.initial_state(trained), frozen)
    del trained
    log.info("weights: %s", report)
    # Order: this work directory's newest readable checkpoint, else what `load` gave (pretrained or random).
    found = checkpoints.restore_latest(plan.abstract_state())
    if found is not None:
        run.first, run.state, saved = found
        run.done = run.first
        run.pending, run.results = saved["pending"], saved["results"]
        run.due = [name for name in saved.get("due", []) if name in evals]
        log.info("resumed from the checkpoint of step %d", run.first)
        mend_log(run, saved.get("log", {}))
    if former is not None:
        tell_growth(plan, batches, former, run.done, int(run.state.skipped))
    if run.done < total:
        check_space(workdir, *sizes(run))
    if jax.process_index() == 0:
        replace_text(workdir / "origin.json", json.dumps(origin_of(built, sets, batches.order.ends)) + "\n")
        save_config(cfg, workdir / "config.json")
    run.report = Report(workdir, gather(run))
    describe(run)
    return run


def mend_log(run: Run, saved: dict) -> None:
    """Say what is missing of metrics.jsonl and pictures.jsonl, and restore what the checkpoints know."""
    if jax.process_index() != 0:
        return
    splits = ["train", *run.evals]

    def known():
        logs = [record.get("log", {}).get("metrics", {}) for record in run.checkpoints.records()]
        return [record for one in logs for record in one.get("latest", ())]

    for name, records in (("metrics", known), ("pictures", list)):
        count = saved.get(name, {}).get("lines")
        mend(run.workdir / f"{name}.jsonl", run.first, run.due, splits, count, records)


def sizes(run: Run) -> tuple[int, int, int]:
    """(bytes of a checkpoint, how many are kept, bytes of the exported model), before any compression."""
    cfg = run.built.cfg
    width = {"float16": 2, "bfloat16": 2}.get(cfg.export_dtype, 4)
    weights = sum(x.size for x in jax.tree.leaves((run.state.params, run.frozen)))
    return sum(x.nbytes for x in jax.tree.leaves(run.state)), cfg.save.keep, width * weights


def train_batches(built: Setup, former: Former | None = None) -> Batches:
    """The batches of the run, which may continue, and be longer than, a former one."""
    cfg = built.cfg
    multiple = data_shards(built.mesh) * cfg.micro_batches

    def ends(examples):
        known = former.ends(examples, cfg.batch) if former else ()
        return run_ends(known, examples, cfg.batch, cfg.steps, cfg.epochs)

    batches = Batches(built.encode("train"), cfg.batching, cfg.batch, **_common(built, multiple), ends=ends)
    log.info("train: %s", data_report(batches.encoded.report))
    if cfg.batch > len(batches.encoded):
        log.warning("config.batch is %d, but there are %d examples", cfg.batch, len(batches.encoded))
    return batches


def eval_batches(built: Setup, name: str) -> EvalBatches:
    cfg = built.cfg
    shards = data_shards(built.mesh)
    batch = -(-cfg.eval_batch(name) // shards) * shards
    batches = EvalBatches(built.encode(name), cfg.batching, batch, **_common(built, shards))
    log.info("%s: %s", name, data_report(batches.encoded.report))
    return batches


def data_report(report: dict) -> str:
    """What became of the rows, in a sentence."""
    tokens = f"{report['tokens']:,} tokens"
    if report.get("unknown"):
        tokens += f" (unknown to the tokenizer: {report['unknown']:,}, {report['unknown'] / report['ordinary']:.1%})"
    parts = [f"{report['kept']:,} of {report['rows']:,} rows", tokens]
    parts += [f"{report['windows']:,} windows"] if "windows" in report else []
    parts += [f"{count:,} left out: {reason}" for reason, count in report["dropped"].items()]
    parts += [f"{report['empty']:,} without text"] if report["empty"] else []
    parts += [f"{report['truncated']:,} cut off at config.max_len"] if report["truncated"] else []
    parts += [f"{count:,} {what}" for what, count in report["notes"].items() if count]
    for kind, count in report.get("faults", {}).items():
        parts.append(f"{count:,} with {kind} ({'; '.join(report['shown'][kind])})")
    if "chunks" in report:
        parts.append(f"{report['chunks']:,} chunks, {report['left']:,} tokens left over")
    return ", ".join(parts)


def describe(run: Run) -> None:
    """The summary before the first step."""
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


def precision(built: Setup):
    """float32 means float32: accelerators would otherwise multiply in fewer bits."""
    if built.model.dtype == jnp.float32 and built.mesh.devices.flat[0].platform != "cpu":
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def _common(built: Setup, multiple: int) -> dict:
    return {
        "seed": built.cfg.seed,
        "random_transform": built.random_transform,
        "slots": built.task.slots,
        "transformed_length": built.task.transformed_length,
        "rows_multiple": multiple,
        "max_len": built.setting.max_len or built.cfg.max_len,
        "pad_id": padding_id(built.setting.tokenizer),
        "host": (own_shards(built.mesh), data_shards(built.mesh)),
    }


def _on_host(metrics: StepMetrics) -> dict:
    """One step's metrics as JSON values, exact to the last bit."""
    sums = {name: [float(mean.total), float(mean.count)] for name, mean in metrics.sums.items()}
    return {
        "sums": sums,
        "grad_norm": float(metrics.grad_norm),
        "tokens": int(metrics.tokens),
        "learning_rate": float(metrics.learning_rate),
        "finite": bool(metrics.finite),
    }
