"""The model card of an exported model: what was trained on what, with which result."""

import math
import re
from dataclasses import asdict
from pathlib import Path

from jaxft.inference.settings import FILE, Inference
from jaxft.training.rounding import Written
from jaxft.training.setup import Setup

MOST = 200  # characters of a name


def inference_lines(inference: Inference) -> dict[str, str]:
    """The settings for people, name to value in Markdown."""
    found = {"longest input": f"{inference.max_length} tokens"} if inference.max_length else {}
    if inference.columns:
        found["columns"] = ", ".join(code(name) for name in inference.columns)
    options = asdict(inference.decoding) if inference.decoding is not None else {}
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return found | {name.replace("_", " "): code(str(value)) for name, value in given.items()}


def model_card(built: Setup, step: int, results: dict, inference: Inference, how: Written) -> str:
    """What was trained on what, with which result (metrics by evaluation set), for people."""
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


def table(numbers: dict[str, float], after: dict[str, float] | None, formats: str) -> list[str]:
    """Metrics in Markdown; `after` are those of the weights as they are written, where that rounds them."""
    if after is None:
        rows = [f"| {cell(metric)} | {value:.4f} |" for metric, value in numbers.items()]
        return ["| metric | value |", "|---|---|", *rows]
    rows = [
        f"| {cell(metric)} | {value:.4f} | {after.get(metric, math.nan):.4f} |" for metric, value in numbers.items()
    ]
    return [f"| metric | trained, float32 | as written, {formats} |", "|---|---|---|", *rows]


def code(text: str) -> str:
    """The text as a code span of Markdown (CommonMark 6.1): on one line, at most MOST characters of it."""
    text = " ".join(text.split())
    text = text if len(text) <= MOST else text[: MOST - 3] + "..."
    runs = re.findall("`+", text)
    fence = next("`" * size for size in range(1, len(runs) + 2) if "`" * size not in runs)
    space = " " if runs else ""
    return f"{fence}{space}{text}{space}{fence}" if text else ""


def cell(text: str) -> str:
    """The same in a table, where a bar would end the cell (GFM 4.10)."""
    return code(text).replace("|", "\\|")
