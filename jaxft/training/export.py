"""Write a run's weights as a Hugging Face directory with a model card."""

import logging
import math
from dataclasses import replace
from pathlib import Path

from jaxft.inference.settings import FILE, Inference
from jaxft.models.checkpoint.save import largest, listed, save_model
from jaxft.models.params import Params
from jaxft.problems import RunStopped
from jaxft.training.model_card import model_card
from jaxft.training.rounding import Written, written
from jaxft.training.setup import Setup

log = logging.getLogger("jaxft")


def export_state(
    built: Setup, params: Params, directory: Path, step: int, results: dict, how: Written | None = None
) -> None:
    """`directory` becomes a complete Hugging Face model, of weights that `check_finite` has seen.

    Every process of a pod must call.
    """
    task = built.task
    how = how or written(built, params)
    inference = inference_settings(built, results)
    files = {"README.md": model_card(built, step, results, inference, how), FILE: inference.to_json()}
    files |= task.model_files(built.setting, built.arch.spec.output_width or built.arch.spec.width)
    save_model(
        directory,
        built.model,
        params,
        built.pretrained,
        built.arch,
        dtype=how.dtype,
        labels=list(task.labels) if task.labels else None,
        problem_type=task.problem_type,
        files=files,
        tokenizer=built.setting.tokenizer if built.cfg.add_tokens else None,
    )
    why = "as the base checkpoint" if built.cfg.export_dtype == "auto" else "config.export_dtype"
    log.info("model written to %s: %s (%s), trained in float32", directory, how, why)


def check_finite(built: Setup, params: dict, directory: Path, step: int) -> None:
    """Raises RunStopped that names the weights with a NaN or an infinity: nothing is to be written then."""
    bad = [name for name, size in largest(built.model, params).items() if not math.isfinite(size)]
    if bad:
        raise RunStopped(
            f"after step {step} {len(bad)} of the model's weights are NaN or infinite ({listed(bad)}): {directory} is "
            "not written. Try a smaller config.lr or a longer warm-up; python -m jaxft.export --step=N writes an "
            "earlier checkpoint"
        )


def inference_settings(built: Setup, results: dict) -> Inference:
    """How the task's evaluation read its inputs, and made answers of scores."""
    return replace(built.task.inference(results), max_length=built.setting.max_len)
