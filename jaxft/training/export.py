"""Writes the weights of a run as a Hugging Face directory with a model card."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

from jaxft.adapters.base import PeftMethod
from jaxft.adapters.peft_files import CONFIG, WEIGHTS, AdapterFiles, adapter_files, config_json
from jaxft.adapters.prompt_files import prompt_files
from jaxft.adapters.soft_prompt import SoftPrompt
from jaxft.inference.settings import FILE, Inference
from jaxft.models.checkpoint.save import exported_config, largest, name_list, save_files, save_model
from jaxft.models.params import Params, names
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


def export_adapter(
    built: Setup, tune: PeftMethod, params: Params, directory: Path, step: int, results: dict[str, dict[str, float]]
) -> None:
    """Makes `directory` an adapter that PEFT loads on the run's base model. Every process must call this."""
    check_finite(built, params, directory, step)
    found = adapter_files(built.model, params, trained_names(built), built.arch, tune, built.cfg.model)
    _write_adapter(built, found, directory, step, results)
    if found.config["modules_to_save"]:
        log.info("vLLM does not load adapters with modules_to_save (the head): serve the merged model there")


def export_prompt(
    built: Setup, tune: SoftPrompt, params: Params, directory: Path, step: int, results: dict[str, dict[str, float]]
) -> None:
    """As `export_adapter`, for a soft prompt."""
    check_finite(built, params, directory, step)
    found = prompt_files(built.model, params, trained_names(built), built.arch, tune, built.cfg.model)
    _write_adapter(built, found, directory, step, results)
    if lost := tune.left_out:
        log.info(
            "PEFT's files hold the result of %s, not its weights: training goes on from the checkpoints of this work "
            "directory, not from the adapter",
            lost,
        )


def trained_names(built: Setup) -> set[str]:
    """The names of the parameters that train."""
    return {name for path in built.trained for name in names(built.model, path)}


def _write_adapter(
    built: Setup, found: AdapterFiles, directory: Path, step: int, results: dict[str, dict[str, float]]
) -> None:
    """Writes the files of an adapter, and how jaxft reads inputs with it."""
    inference = inference_settings(built, results)
    card = model_card(built, step, results, inference, Written("float32", ["float32"]))
    files = {"README.md": card.replace("library_name: transformers", "library_name: peft", 1)}
    labels = list(built.task.labels) if built.task.labels else None
    config = exported_config(built.pretrained, built.arch, "auto", labels, built.task.problem_type)
    files |= {FILE: inference.to_json(), CONFIG: config_json(found), "config.json": json.dumps(config, indent=2) + "\n"}
    save_files(directory, found.tensors, WEIGHTS[0], files, built.setting.tokenizer)
    log.info("adapter written to %s", directory)


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
