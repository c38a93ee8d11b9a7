"""Write a run's weights as a Hugging Face directory with a model card."""

import math
from dataclasses import replace
from pathlib import Path

from jaxft.inference.settings import FILE, Inference, reads
from jaxft.loop.build import Built
from jaxft.loop.model_card import model_card
from jaxft.loop.step import TrainState
from jaxft.models.save import largest, listed, save_model
from jaxft.problems import RunStopped


def export_state(built: Built, state: TrainState, frozen, directory: Path, step: int, results: dict) -> None:
    """`directory` becomes a complete Hugging Face model; every process of a pod must call.

    Raises RunStopped for weights that are not finite: nothing is written then, and what lies there stays.
    """
    task, params = built.task, {**state.params, **frozen}
    check_finite(built, params, directory, step)
    inference = inference_settings(built, results)
    files = {"README.md": model_card(built, step, results, inference), FILE: inference.to_json()}
    if hasattr(task, "model_files"):
        files |= task.model_files(built.setting, built.arch.spec.result or built.arch.spec.width)
    save_model(
        directory,
        built.model,
        params,
        built.pretrained,
        built.arch,
        dtype=built.cfg.export_dtype,
        labels=list(task.labels) if getattr(task, "labels", None) else None,
        problem_type=getattr(task, "problem_type", None),
        files=files,
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


def inference_settings(built: Built, results: dict) -> Inference:
    """How the task's evaluation read its inputs, and made answers of scores."""
    task = built.task
    made = task.inference(results) if hasattr(task, "inference") else reads(task)
    return replace(made, max_length=built.setting.max_len)
