"""Write a run's weights as a Hugging Face directory with a model card."""

import math
from pathlib import Path

from jaxft.loop.build import Built
from jaxft.loop.step import TrainState
from jaxft.models.save import largest, listed, save_model
from jaxft.problems import RunStopped


def export_state(built: Built, state: TrainState, frozen, directory: Path, step: int, results: dict) -> None:
    """`directory` becomes a complete Hugging Face model; every process of a pod must call.

    Raises RunStopped for weights that are not finite: nothing is written then, and what lies there stays.
    """
    task, params = built.task, {**state.params, **frozen}
    check_finite(built, params, directory, step)
    save_model(
        directory,
        built.model,
        params,
        built.pretrained,
        built.arch,
        dtype=built.cfg.export_dtype,
        labels=list(task.labels) if getattr(task, "labels", None) else None,
        problem_type=getattr(task, "problem_type", None),
        files={"README.md": model_card(built, step, results), **getattr(task, "model_files", dict)()},
        tokenizer=built.setting.tokenizer if built.cfg.add_tokens else None,
    )


def check_finite(built: Built, params: dict, directory: Path, step: int) -> None:
    """Raises RunStopped that names the weights with a NaN or an infinity."""
    bad = [name for name, size in largest(built.model, params).items() if not math.isfinite(size)]
    if bad:
        raise RunStopped(
            f"after step {step} {len(bad)} of the model's weights are NaN or infinite ({listed(bad)}): {directory} is "
            "not written. Try a smaller config.lr or a longer warm-up; python -m jaxft.export --step=N writes an "
            "earlier checkpoint"
        )


def model_card(built: Built, step: int, results: dict[str, dict[str, float]]) -> str:
    """What was trained on what, with which result, for people."""
    cfg = built.cfg
    name = Path(cfg.model).name
    lines = [
        "---",
        "library_name: transformers",
        "tags: [jaxft]",
        "---",
        f"# {name}, fine-tuned",
        "",
        f"Made by jaxft from `{name}`: {type(built.task).__name__}, {type(cfg.tune).__name__} tuning, {step} steps of "
        f"{cfg.batch} examples, {type(cfg.optim).__name__}, peak learning rate {cfg.lr:g}.",
        "",
    ]
    for split, numbers in results.items():
        lines += [f"## Evaluation on `{split}`", "", "| metric | value |", "|---|---|"]
        lines += [f"| {metric} | {value:.4f} |" for metric, value in numbers.items()] + [""]
    return "\n".join(lines)
