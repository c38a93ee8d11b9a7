"""Train one configuration with jaxft and with PyTorch, several seeds each, and compare how well both models do.

    python tests/quality.py --config=configs/reuters_r8.py:short --seeds=3 [--side=SIDE,...] [--config.FIELD=VALUE ...]

Sides: `jaxft`; `pytorch`, which starts from jaxft's first weights (new head included) and sees jaxft's batches in their
order; `pytorch-alone`, which draws its own head and its own order, as a plain PyTorch loop does. Tasks: classification,
tags of words, and questions, with AdamW. PyTorch computes transformers' own loss; its logits are measured by the same
code as jaxft's. Each side draws its own dropout. Prints a JSON line for each run, and last the mean and the standard
deviation of each metric and side.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxft.benchmark.job import read_examples, write_examples
from jaxft.benchmark.rounds import job_of
from jaxft.benchmark.trainer import Collator, model_of
from jaxft.cli import command
from jaxft.config import Mesh
from jaxft.data import Pack, Pad
from jaxft.evaluation.evaluate import evaluate
from jaxft.models.model import Outputs
from jaxft.problems import raise_problems
from jaxft.training.export import export_state
from jaxft.training.fit import fit
from jaxft.training.run import eval_batches, train_batches
from jaxft.training.setup import build


def by_jaxft(cfg) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as workdir:
        return fit(cfg, workdir).metrics


def by_torch(cfg) -> dict[str, dict[str, float]]:
    """From jaxft's first weights, on jaxft's batches."""
    if isinstance(cfg.batching, Pack):
        cfg = replace(cfg, batching=Pad(window=1))  # unsorted, as Pack's are
    built = build(cfg)
    batches = train_batches(built)
    total = len(batches)
    job = job_of(built, "dynamic", total)
    with tempfile.TemporaryDirectory() as folder, jax.set_mesh(built.mesh):
        trained, frozen, _ = built.load()
        target = Path(folder) / "first"
        export_state(built, trained | frozen, target, 0, {})
        model = model_of(replace(job, model=str(target), random=False))
    seen = (trimmed(batches[step]) for step in range(total))
    given_batches = ({**given(batch), **labels_of(batch, built.arch.kind)} for batch in seen)
    return measured(built, trained_by_torch(model, given_batches, cfg, total))


def by_torch_alone(cfg) -> dict[str, dict[str, float]]:
    """From a head of PyTorch's own, on batches in an order of its own, which transformers' collators pad."""
    torch.manual_seed(cfg.seed)
    built = build(cfg)
    batches = train_batches(built)
    job = job_of(built, "dynamic", len(batches))
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder) / "train.npz", batches.encoded, built.arch.kind)
        examples = read_examples(Path(folder) / "train.npz")
    seen = shuffled(examples, Collator(job), cfg.batch)
    return measured(built, trained_by_torch(model_of(job), seen, cfg, len(batches)))


def shuffled(examples: list[dict], collate, size: int) -> Iterator[dict]:
    """Batches without an end, each epoch in an order of its own."""
    while True:
        order = torch.randperm(len(examples)).tolist()
        for first in range(0, len(order), size):
            yield collate([examples[number] for number in order[first : first + size]])


def trained_by_torch(model, batches: Iterator[dict], cfg, total: int):
    """AdamW with the configuration's numbers and schedule, for `total` updates."""
    torch.manual_seed(cfg.seed)
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": cfg.optim.decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, cfg.lr, (cfg.optim.b1, cfg.optim.b2), cfg.optim.eps)
    rate = cfg.schedule.make(1.0, total)
    falling = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: float(rate(step)))
    for step, batch in zip(range(total), batches, strict=False):
        adamw.zero_grad()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip or float("inf"))
        adamw.step()
        falling.step()
        if step % cfg.log_every == 0:
            print(f"pytorch: step {step} of {total}", file=sys.stderr)
    return model.eval()


def trimmed(batch) -> dict:
    """The batch without its empty rows, and without columns that are padding in all rows.

    For transformers' loss of answers such columns count.
    """
    rows = batch["segments"].any(1)
    size = int(np.flatnonzero(batch["segments"].any(0))[-1]) + 1
    length = batch["tokens"].shape[1]
    full = {key: values[rows] for key, values in batch.items()}
    return {key: values[:, :size] if values.shape[1:2] == (length,) else values for key, values in full.items()}


def given(batch) -> dict[str, torch.Tensor]:
    """A batch's texts as PyTorch's models take them."""
    names = {"tokens": "input_ids", "types": "token_type_ids"}
    arrays = {name: torch.tensor(batch[key]).long() for key, name in names.items() if key in batch}
    return arrays | {"attention_mask": torch.tensor(batch["segments"] > 0).long()}


def labels_of(batch, kind: str) -> dict[str, torch.Tensor]:
    targets, weights = batch["targets"], batch["weights"]
    if kind == "sequence-classification":
        return {"labels": torch.tensor(targets[:, 0]).long()}
    if kind == "token-classification":
        labels = np.full(batch["tokens"].shape, -100)
        row, slot = np.nonzero(weights)
        labels[row, batch["at"][row, slot]] = targets[row, slot, 0]
        return {"labels": torch.tensor(labels)}
    length = targets.shape[1]  # which as a position teaches nothing
    found = [np.where(targets[..., side].any(1), targets[..., side].argmax(1), length) for side in (0, 1)]
    return dict(zip(("start_positions", "end_positions"), map(torch.tensor, found), strict=True))


def measured(built, model) -> dict[str, dict[str, float]]:
    """Metrics of each evaluation set, by jaxft's code from PyTorch's logits."""

    @torch.no_grad()
    def step(batch):
        out = model(**given(batch))
        if built.arch.kind == "sequence-classification":
            logits = out.logits.numpy()[:, None]
        elif built.arch.kind == "token-classification":
            logits = np.take_along_axis(out.logits.numpy(), batch["at"][..., None], 1)
        else:
            logits = np.stack([out.start_logits.numpy(), out.end_logits.numpy()], -1)
        ours = Outputs(None, jnp.asarray(logits))
        kept = built.task.eval_outputs(ours, batch)
        return built.task.loss(ours, batch), {"weights": batch["weights"], "index": batch["index"], **kept}

    results = {}
    for name in built.cfg.evals:
        batches = eval_batches(built, name)
        evaluate_predictions = built.evaluate_predictions(name, batches.encoded)
        results[name] = evaluate(step, batches, lambda batch: batch, built.task, evaluate_predictions).numbers
    return results


SIDES = {"jaxft": by_jaxft, "pytorch": by_torch, "pytorch-alone": by_torch_alone}


def compare(cfg, seeds: int, sides: list[str]) -> dict[str, dict]:
    """Side -> metric -> [mean, standard deviation]."""
    found = {side: [] for side in sides}
    for seed in range(seeds):
        for side in sides:
            begin = time.perf_counter()
            results = SIDES[side](replace(cfg, seed=seed))
            numbers = {f"{name}/{key}": value for name, some in results.items() for key, value in some.items()}
            found[side].append(numbers)
            record = {"side": side, "seed": seed, "seconds": round(time.perf_counter() - begin), **numbers}
            print(json.dumps(record), flush=True)
    return {
        side: {
            key: [float(np.mean(values)), float(np.std(values, ddof=1)) if seeds > 1 else 0.0]
            for key in runs[0]
            for values in [[run[key] for run in runs]]
        }
        for side, runs in found.items()
    }


def main(flags):
    jax.config.update("jax_platforms", "cpu")
    sides = flags.side.split(",")
    raise_problems(f"--side has {side!r}, expected {', '.join(SIDES)}" for side in sides if side not in SIDES)
    cfg = replace(flags.config, mesh=Mesh(data=1))
    for side, metrics in compare(cfg, flags.seeds, sides).items():
        print(json.dumps({"side": side, **metrics}))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.CONFIG,
        command.Flag("seeds", "how many runs of each side", type=int, default=3),
        command.Flag("side", f"which to run, of {', '.join(SIDES)}", default="jaxft,pytorch"),
    )
