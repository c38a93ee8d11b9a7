"""The loop: steps, log points, evaluations, checkpoints, and at the end the exported model."""

import contextlib
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxft.config import Config, save_config
from jaxft.configurable import to_json
from jaxft.data.pipeline import Batches, EvalBatches, steps_per_epoch, train_iterator
from jaxft.loop.build import Built, Training, build, evaluation_step, training
from jaxft.loop.checkpoint import Checkpoints
from jaxft.loop.evals import evaluate
from jaxft.loop.export import export_state
from jaxft.loop.resume import changed_problems
from jaxft.loop.step import StepMetrics, TrainState
from jaxft.loop.summary import Compiled, flops, human, memory_bytes, peak_flops
from jaxft.loop.writer import Writer
from jaxft.parallel.mesh import data_shards
from jaxft.problems import RunStopped

log = logging.getLogger("jaxft")


@dataclass
class Run:
    """A run in progress."""

    built: Built
    training: Training
    workdir: Path
    total: int  # steps
    batches: Batches
    evals: dict[str, EvalBatches]
    checkpoints: Checkpoints
    state: TrainState
    frozen: dict[str, jax.Array]
    first: int = 0  # steps that were done before this process
    pending: list[dict] = field(default_factory=list)  # host metrics of steps since the last log point
    results: dict[str, dict[str, float]] = field(default_factory=dict)  # latest metrics by evaluation set


def fit(cfg: Config, workdir: str) -> dict[str, dict[str, float]]:
    """Train, or go on where an earlier run in `workdir` stopped. Returns the last metrics of each evaluation set."""
    built = build(cfg)
    with jax.set_mesh(built.mesh), precision(built):
        run = start(built, Path(workdir))
        with contextlib.closing(run.checkpoints):
            if run.first < run.total:
                loop(run)
            finish(run)
    return run.results


def start(built: Built, workdir: Path) -> Run:
    """Encode the data, load the weights, and take up the newest checkpoint if the work directory has one."""
    cfg = built.cfg
    workdir.mkdir(parents=True, exist_ok=True)
    changed_problems(cfg, workdir)
    batches = train_batches(built)
    evals = {name: eval_batches(built, name) for name in cfg.evals}
    total = cfg.steps or max(1, round(cfg.epochs * len(batches.encoded) / cfg.batch))
    plan = training(built, total)
    trained, frozen, report = built.load()
    checkpoints = Checkpoints(workdir, cfg.save)
    run = Run(built, plan, workdir, total, batches, evals, checkpoints, plan.initial_state(trained), frozen)
    del trained
    log.info("weights: %s", report)
    # Order: this work directory's newest readable checkpoint, else what `load` gave (pretrained or random).
    found = checkpoints.restore_latest(plan.abstract_state())
    if found is not None:
        run.first, run.state, saved = found
        run.pending, run.results = saved["pending"], saved["results"]
        log.info("resumed from the checkpoint of step %d", run.first)
    if jax.process_index() == 0:
        save_config(cfg, workdir / "config.json")
    describe(run)
    return run


def loop(run: Run) -> None:
    """All remaining steps. The next batch is on its way to the devices while a step runs."""
    cfg, built = run.built.cfg, run.built
    step = Compiled(run.training.step(), "training step")
    eval_step = Compiled(evaluation_step(built), "evaluation step")
    writer = Writer(run.workdir, run.first, run.total, cfg.wandb)
    pace = Pace(run, step)
    iterator = train_iterator(run.batches, run.first)
    device_metrics: list[StepMetrics] = []
    batch = built.put(next(iterator))
    with contextlib.closing(writer), contextlib.closing(iterator):
        for done in range(run.first + 1, run.total + 1):
            run.state, metrics = step(run.state, run.frozen, batch)
            pace.add(batch)
            device_metrics.append(metrics)
            if done < run.total:
                batch = built.put(next(iterator))
            saves = done == run.total or done % cfg.save_interval(run.total) == 0
            if done % cfg.log_every == 0 or saves:
                run.pending += [_on_host(m) for m in jax.device_get(device_metrics)]
                device_metrics.clear()
            if done % cfg.log_every == 0 or done == run.total:
                log_point(run, done, writer, pace)
            due = [n for n in run.evals if done == run.total or done % cfg.eval_interval(n, run.total) == 0]
            with pace.paused():
                for name in due:
                    run.results[name] = run_eval(run, name, eval_step)
                    writer.write(done, name, run.results[name])
                if saves:
                    save(run, done, due)


def log_point(run: Run, step: int, writer: Writer, pace: "Pace") -> None:
    """Write what happened since the last log point: sums over its steps, divided once."""
    numbers = {}
    for name in run.pending[0]["sums"]:
        total = sum(m["sums"][name][0] for m in run.pending)
        count = sum(m["sums"][name][1] for m in run.pending)
        numbers[name] = total / count if count else float("nan")
    last = run.pending[-1]
    numbers |= {"learning_rate": last["learning_rate"], "grad_norm": last["grad_norm"]}
    numbers["epoch"] = step * run.built.cfg.batch / len(run.batches.encoded)
    numbers["skipped"] = int(run.state.skipped)
    numbers |= pace.numbers(sum(m["tokens"] for m in run.pending))
    writer.write(step, "train", numbers)
    bad = [m for m in run.pending if not m["finite"]]
    run.pending.clear()
    if bad and run.built.cfg.nonfinite == "stop":
        raise RunStopped(
            f"the loss or its gradient was NaN or infinite in {len(bad)} of the steps up to {step}; these updates were "
            "not made. Try a smaller config.lr, a longer warm-up, config.clip=1.0 or config.dtype='float32'; "
            "config.nonfinite='skip' goes on without such updates. The last checkpoint is untouched."
        )


def run_eval(run: Run, name: str, eval_step) -> dict[str, float]:
    """Metrics of one evaluation set, by the current weights."""
    params = run.state.params
    return evaluate(lambda batch: eval_step(params, run.frozen, batch), run.evals[name], run.built.put, run.built.task)


def save(run: Run, step: int, evaluated: list[str]) -> None:
    """Begin an asynchronous checkpoint, ranked by the metrics that were measured at this very step."""
    metrics = {f"{name}/{key}": value for name in evaluated for key, value in run.results[name].items()}
    record = {"config": to_json(run.built.cfg), "pending": run.pending, "results": run.results}
    run.checkpoints.save(step, run.state, record, metrics)


def finish(run: Run) -> None:
    """Write the best or last model as `model/`, unless an earlier process did."""
    run.checkpoints.wait()
    target = run.workdir / "model"
    step = run.checkpoints.best()
    if run.first == run.total and target.exists():
        log.info("the run is complete: %d steps", run.total)
        return
    state = run.state
    if step != run.total:
        state, saved = run.checkpoints.restore(step, run.training.abstract_state())
        run.results = saved["results"]
        log.info("step %d was best by %s", step, run.built.cfg.save.best)
    export_state(run.built, state, run.frozen, target, step, run.results)
    log.info("model written to %s", target)


def train_batches(built: Built) -> Batches:
    cfg = built.cfg
    multiple = data_shards(built.mesh) * cfg.micro_batches
    batches = Batches(built.encode("train"), cfg.rows, cfg.batch, **_common(built, multiple))
    log.info("train: %s", data_report(batches.encoded.report))
    return batches


def eval_batches(built: Built, name: str) -> EvalBatches:
    cfg = built.cfg
    shards = data_shards(built.mesh)
    batch = -(-cfg.eval_batch(name) // shards) * shards
    batches = EvalBatches(built.encode(name), cfg.rows, batch, **_common(built, shards))
    log.info("%s: %s", name, data_report(batches.encoded.report))
    return batches


def data_report(report: dict) -> str:
    """What became of the rows, in a sentence."""
    parts = [f"{report['kept']:,} of {report['rows']:,} rows", f"{report['tokens']:,} tokens"]
    parts += [f"{count:,} left out: {reason}" for reason, count in report["dropped"].items()]
    parts += [f"{report['truncated']:,} cut off at config.max_len"] if report["truncated"] else []
    if "chunks" in report:
        parts.append(f"{report['chunks']:,} chunks, {report['left']:,} tokens left over")
    return ", ".join(parts)


def describe(run: Run) -> None:
    """The summary before the first step."""
    cfg, built = run.built.cfg, run.built
    trained, frozen = built.sizes()
    shape = " x ".join(f"{axis} {size}" for axis, size in built.mesh.shape.items())
    state = sum(x.nbytes for x in jax.tree.leaves(run.state)) + sum(x.nbytes for x in run.frozen.values())
    steps = min(run.total, steps_per_epoch(len(run.batches.encoded), cfg.batch), 100)
    log.info("parameters: %s train, %s frozen, %s compute", human(trained), human(frozen), built.model.dtype)
    log.info("memory: %.2f GiB of weights and optimizer over %d devices (%s)", state / 2**30, built.mesh.size, shape)
    log.info(
        "batch: %d examples in %d micro-batches, %.1f%% of the tokens useful, shapes %s",
        cfg.batch,
        cfg.micro_batches,
        100 * run.batches.fill(steps),
        ", ".join(f"{rows} x {length}" for rows, length in sorted(run.batches.shapes(steps))),
    )
    log.info("steps: %d, of which %d are done", run.total, run.first)


class Pace:
    """Measures training alone: compiling, evaluating and saving do not count."""

    def __init__(self, run: Run, step: Compiled):
        self.run, self.step = run, step
        self.flops, self.steps = 0.0, 0
        self.mark, self.compiled = time.monotonic(), 0.0

    def add(self, batch) -> None:
        self.steps += 1
        self.flops += flops(self.run.built.model, set(self.run.built.trained), batch)

    @contextlib.contextmanager
    def paused(self):
        start = time.monotonic()
        yield
        self.mark += time.monotonic() - start

    def numbers(self, tokens: int) -> dict[str, float]:
        """Rates since the last call."""
        now, compiled = time.monotonic(), sum(self.step.seconds.values())
        seconds = max(now - self.mark - (compiled - self.compiled), 1e-9)
        numbers = {"tokens_per_second": tokens / seconds, "steps_per_second": self.steps / seconds}
        numbers["memory_bytes"] = memory_bytes()
        if peak := peak_flops():
            numbers["mfu"] = self.flops / seconds / peak
        self.flops, self.steps, self.mark, self.compiled = 0.0, 0, now, compiled
        return numbers


def precision(built: Built):
    """float32 means float32: accelerators would otherwise multiply in fewer bits."""
    if built.model.dtype == jnp.float32 and jax.default_backend() != "cpu":
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def _common(built: Built, multiple: int) -> dict:
    pad = built.setting.tokenizer.pad_token_id
    return {
        "seed": built.cfg.seed,
        "draw": built.draw,
        "slots": built.task.slots,
        "rows_multiple": multiple,
        "max_len": built.setting.max_len or built.cfg.max_len,
        "pad_id": pad if pad is not None else built.setting.tokenizer.eos_token_id,
        "host": (jax.process_index(), jax.process_count()),
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
