"""The model card of an exported model: base model, training, inputs, results."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from jaxft.inference.settings import FILE, Inference
from jaxft.training.rounding import Written
from jaxft.training.setup import Setup

MAX_CHARACTERS = 200  # of a name


def inference_lines(inference: Inference) -> dict[str, str]:
    """Inference settings by name, values in Markdown."""
    found = {"longest input": f"{inference.max_length} tokens"} if inference.max_length else {}
    if inference.columns:
        found["columns"] = ", ".join(code(name) for name in inference.columns)
    options = asdict(inference.decoding) if inference.decoding is not None else {}
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return found | {name.replace("_", " "): code(str(value)) for name, value in given.items()}


def model_card(
    built: Setup, step: int, results: Mapping[str, Mapping[str, float]], inference: Inference, how: Written
) -> str:
    """The text of README.md. `results` are the metrics of each evaluation set."""
    cfg = built.cfg
    name = code(Path(cfg.model).name)
    lines = [
        "---",
        "library_name: transformers",
        "tags: [jaxft]",
        "---",
        f"# {name}, fine-tuned",
        "",
        f"Made by jaxft from {name}: {type(built.task).__name__}, {type(cfg.tune).__name__} tuning, {step} steps of "
        f"{cfg.batch} examples, {type(cfg.optim).__name__}, peak learning rate {cfg.lr:g}.",
        f"Weights were trained in float32 and are written in {how}.",
        "",
        "## Inputs",
        "",
        f"As in the evaluation ({FILE}; `jaxft.load(...).predict` and `python -m jaxft.predict` read them so):",
        "",
        *(f"- {name}: {value}" for name, value in inference_lines(inference).items()),
        "",
    ]
    for split, numbers in results.items():
        lines += [f"## Evaluation on {code(split)}", "", *table(numbers, how.results.get(split), str(how)), ""]
    return "\n".join(lines)


def table(numbers: Mapping[str, float], after: Mapping[str, float] | None, formats: str) -> list[str]:
    """Metrics as lines of a Markdown table. `after` are those of the rounded weights, if writing rounds them to
    `formats`."""
    if after is None:
        rows = [f"| {cell(metric)} | {value:.4f} |" for metric, value in numbers.items()]
        return ["| metric | value |", "|---|---|", *rows]
    rows = [
        f"| {cell(metric)} | {value:.4f} | {after.get(metric, math.nan):.4f} |" for metric, value in numbers.items()
    ]
    return [f"| metric | trained, float32 | as written, {formats} |", "|---|---|---|", *rows]


def code(text: str) -> str:
    """The text as a code span of Markdown (CommonMark 6.1), on one line, at most MAX_CHARACTERS characters of it."""
    text = " ".join(text.split())
    text = text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 3] + "..."
    runs = re.findall("`+", text)
    fence = next("`" * size for size in range(1, len(runs) + 2) if "`" * size not in runs)
    space = " " if runs else ""
    return f"{fence}{space}{text}{space}{fence}" if text else ""


def cell(text: str) -> str:
    """`code` for a cell of a table, where a bar would end the cell (GFM 4.10)."""
    return code(text).replace("|", "\\|")
