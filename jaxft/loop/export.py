"""Write a run's weights as a Hugging Face directory with a model card."""

from pathlib import Path

from jaxft.loop.build import Built
from jaxft.loop.step import TrainState
from jaxft.models.save import save_model


def export_state(built: Built, state: TrainState, frozen, directory: Path, step: int, results: dict) -> None:
    """`directory` becomes a complete Hugging Face model; every process of a pod must call."""
    task = built.task
    save_model(
        directory,
        built.model,
        {**state.params, **frozen},
        built.pretrained,
        built.arch,
        dtype=built.cfg.export_dtype,
        labels=list(task.labels) if getattr(task, "labels", None) else None,
        problem_type=getattr(task, "problem_type", None),
        files={"README.md": model_card(built, step, results), **getattr(task, "model_files", dict)()},
        tokenizer=built.setting.tokenizer if built.cfg.add_tokens else None,
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
