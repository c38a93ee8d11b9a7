"""Writes the weights of a run as a Hugging Face directory with a model card."""

import logging
import math
from dataclasses import replace
from pathlib import Path

from jaxft.inference.settings import FILE, Inference
from jaxft.models.checkpoint.save import largest, name_list, save_model
from jaxft.models.params import Params
from jaxft.problems import RunStopped
from jaxft.training.model_card import model_card
from jaxft.training.rounding import Written, written
from jaxft.training.setup import Setup

log = logging.getLogger("jaxft")


def export_state(
    built: Setup,
    params: Params,
    directory: Path,
    step: int,
    results: dict[str, dict[str, float]],
    how: Written | None = None,
) -> None:
    """Makes `directory` a complete Hugging Face model. `results` are the metrics of each evaluation set.

    Call `check_finite` before. With several processes every one must call this.
    """
    task = built.task
    how = how or written(built, params)
    inference = inference_settings(built, results)
    files: dict[str, str | bytes] = {
        "README.md": model_card(built, step, results, inference, how),
        FILE: inference.to_json(),
    }
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


def check_finite(built: Setup, params: Params, directory: Path, step: int) -> None:
    """Raises RunStopped with the names of weights that are NaN or infinite: such a model must not be written."""
    bad = [name for name, size in largest(built.model, params).items() if not math.isfinite(size)]
    if bad:
        raise RunStopped(
            f"after step {step} {len(bad)} of the model's weights are NaN or infinite ({name_list(bad)}): {directory} "
            "is not written. Try a smaller config.lr or a longer warm-up; python -m jaxft.export --step=N writes an "
            "earlier checkpoint"
        )


def inference_settings(built: Setup, results: dict[str, dict[str, float]]) -> Inference:
    """How the evaluation of the task read its inputs and turned scores into answers."""
    return replace(built.task.inference(results), max_length=built.setting.max_len)
