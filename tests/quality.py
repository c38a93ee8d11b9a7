"""Train one configuration with jaxft and with PyTorch, several seeds each, and compare what they are worth.

    python tests/quality.py --config=configs/derived_qa.py:addresses --seeds=3 [--side=both] [--config.FIELD=VALUE ...]

Tags of words and questions with AdamW, packed by jaxft. PyTorch sees the same batches in the same order, padded, with
transformers' own loss, and its logits are measured by the same code. Heads and dropout are drawn by each side from the
seed. Prints a JSON line for each run, and last the mean and the standard deviation of each metric and side.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxft import command
from jaxft.benchmark.rounds import job_of
from jaxft.benchmark.trainer import model_of
from jaxft.config import Mesh
from jaxft.data import Pad
from jaxft.loop.build import build
from jaxft.loop.evals import evaluate
from jaxft.loop.fit import fit
from jaxft.loop.run import eval_batches, train_batches
from jaxft.models.model import Outputs


def by_jaxft(cfg) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as workdir:
        return fit(cfg, workdir)


def by_torch(cfg) -> dict[str, dict[str, float]]:
    cfg = replace(cfg, rows=Pad(window=1))  # unsorted, as Pack's are
    built = build(cfg)
    batches = train_batches(built)
    total = len(batches)
    torch.manual_seed(cfg.seed)
    model = model_of(job_of(built, "dynamic", total)).train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": cfg.optim.decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, cfg.lr, (cfg.optim.b1, cfg.optim.b2), cfg.optim.eps)
    rate = cfg.schedule.make(1.0, total)
    falling = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: float(rate(step)))
    for step in range(total):
        batch = trimmed(batches[step])
        adamw.zero_grad()
        model(**given(batch), **labels_of(batch, built.arch.kind)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip or float("inf"))
        adamw.step()
        falling.step()
        if step % cfg.log_every == 0:
            print(f"pytorch: step {step} of {total}", file=sys.stderr)
    return measured(built, model.eval())


def trimmed(batch) -> dict:
    """The batch without columns that are padding in all rows: for transformers' loss of answers these count."""
    size = int(np.flatnonzero(batch["segments"].any(0))[-1]) + 1
    length = batch["tokens"].shape[1]
    return {key: values[:, :size] if values.shape[1:2] == (length,) else values for key, values in batch.items()}


def given(batch) -> dict[str, torch.Tensor]:
    """A batch's texts as PyTorch's models take them."""
    names = {"tokens": "input_ids", "types": "token_type_ids"}
    arrays = {name: torch.tensor(batch[key]).long() for key, name in names.items() if key in batch}
    return arrays | {"attention_mask": torch.tensor(batch["segments"] > 0).long()}


def labels_of(batch, kind: str) -> dict[str, torch.Tensor]:
    targets, weights = batch["targets"], batch["weights"]
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
        if built.arch.kind == "token-classification":
            logits = np.take_along_axis(out.logits.numpy(), batch["at"][..., None], 1)
        else:
            logits = np.stack([out.start_logits.numpy(), out.end_logits.numpy()], -1)
        ours = Outputs(None, jnp.asarray(logits))
        kept = built.task.collect(ours, batch)
        return built.task.loss(ours, batch), {"weights": batch["weights"], "index": batch["index"], **kept}

    results = {}
    for name in built.cfg.evals:
        batches = eval_batches(built, name)
        judge = built.judge(name, batches.encoded)
        results[name] = evaluate(step, batches, lambda batch: batch, built.task, judge).numbers
    return results


SIDES = {"jaxft": by_jaxft, "pytorch": by_torch}


def compare(cfg, seeds: int, sides: list[str]) -> dict[str, dict]:
    """Side -> metric -> [mean, standard deviation]."""
    found = {side: [] for side in sides}
    for seed in range(seeds):
        for side in sides:
            begin = time.perf_counter()
            results = SIDES[side](replace(cfg, seed=seed))
            numbers = {f"{name}/{key}": value for name, some in results.items() for key, value in some.items()}
            found[side].append(numbers)
            print(json.dumps({"side": side, "seed": seed, "seconds": round(time.perf_counter() - begin), **numbers}))
    return {
        side: {key: [float(np.mean(values)), float(np.std(values, ddof=1)) if seeds > 1 else 0.0]
               for key in runs[0] for values in [[run[key] for run in runs]]}
        for side, runs in found.items()
    }  # fmt: skip


def main(flags):
    jax.config.update("jax_platforms", "cpu")
    sides = list(SIDES) if flags.side == "both" else [flags.side]
    cfg = replace(flags.config, mesh=Mesh(data=1))
    for side, metrics in compare(cfg, flags.seeds, sides).items():
        print(json.dumps({"side": side, **metrics}))


if __name__ == "__main__":
    command.run(
        main,
        __doc__,
        command.CONFIG,
        command.Flag("seeds", "how many runs of each side", type=int, default=3),
        command.Flag("side", "which to run", default="both", choices=(*SIDES, "both")),
    )
