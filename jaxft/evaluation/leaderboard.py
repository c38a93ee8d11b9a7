"""All tasks of a benchmark: train each, write what its server takes, and sum up in one row."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from jaxft.config import Config
from jaxft.data.source import as_rows
from jaxft.host.output_file import replace_bytes
from jaxft.host.strict_json import dumps
from jaxft.inference.inputs import texts_of
from jaxft.inference.model import LoadedModel, load
from jaxft.problems import raise_problems, suggest
from jaxft.training.fit import fit

log = logging.getLogger("jaxft")


@dataclass(frozen=True)
class Test:
    """Rows without answers, and the file of answers that a benchmark's server takes."""

    file: str  # its name
    data: object  # a source
    lines: Callable[[LoadedModel, list[dict]], Iterable[str]]  # the model and the rows -> the lines of the file


@dataclass(frozen=True)
class Entry:
    """One task of a benchmark; its score is the mean of `metrics`, each an "EVAL/METRIC"."""

    metrics: tuple[str, ...] = ()
    tests: tuple[Test, ...] = ()
    of: str | None = None  # the task whose model answers, where there is nothing to train on


def answers(model: LoadedModel, rows: list[dict], columns: tuple[str, ...]) -> list[dict]:
    """What the model answers to the texts in these columns, or templates."""
    return model.predict(texts_of(model.arch.kind, rows, columns))


def tsv(columns: tuple[str, ...], value: Callable[[LoadedModel, dict], object]):
    """Lines of a table `index`, `prediction`, as GLUE's server takes them."""

    def lines(model, rows):
        yield "index\tprediction"
        for number, (row, answer) in enumerate(zip(rows, answers(model, rows, columns), strict=True)):
            yield f"{row.get('idx', number)}\t{value(model, answer)}"

    return lines


def jsonl(columns: tuple[str, ...], value: Callable[[LoadedModel, dict], object]):
    """Lines {"idx": ..., "label": ...}, as SuperGLUE's server takes them."""

    def lines(model, rows):
        for number, (row, answer) in enumerate(zip(rows, answers(model, rows, columns), strict=True)):
            yield dumps({"idx": row.get("idx", number), "label": value(model, answer)}, ensure_ascii=False)

    return lines


def class_name(model: LoadedModel, answer: dict) -> str:
    """The class that a text was given."""
    return answer["label"]


def class_number(model: LoadedModel, answer: dict) -> int:
    """The same, by its number."""
    return model.pretrained.raw["label2id"][answer["label"]]


def run(
    entries: dict[str, Entry], config: Callable[[str], Config], workdir: Path, only: list[str] | None = None
) -> dict:
    """Task -> {"score": ..., and its metrics}, in percent; a task that is done in `workdir` is not done again.

    `config` gives the configuration of a task. Each has a work directory of its own; the files for the server are in
    `workdir`/submission. Raises UserError for tasks in `only` that there are not, or that another one's model answers
    which is not trained; and in several processes, of which none could ask the model alone.
    """
    raise_problems(problems(entries, workdir, only))
    results = {}
    for task, entry in entries.items():
        if only and task not in only:
            continue
        if entry.of is None:
            log.info("%s: %s", workdir.name, task)
            found = fit(config(task), str(workdir / task))
            numbers = {key: 100 * found[key.partition("/")[0]][key.partition("/")[2]] for key in entry.metrics}
            results[task] = {"score": float(np.mean(list(numbers.values()))), **numbers}
        submit(entry.tests, str(workdir / (entry.of or task) / "model"), workdir / "submission")
    return results


def problems(entries: dict[str, Entry], workdir: Path, only: list[str] | None) -> list[str]:
    """Why the tasks `only`, or all of them, cannot be done."""
    found = [] if jax.process_count() == 1 else ["a suite runs in one process, with all of its devices"]
    for task in only or ():
        if task not in entries:
            found.append(f"there is no task {task!r}, only {', '.join(entries)}.{suggest(task, entries)}")
        elif (of := entries[task].of) is not None and of not in only and not (workdir / of / "model").exists():
            found.append(
                f"{task} is answered by the model of {of}, which is not trained in {workdir}: --only={of},{task}"
            )
    return found


def submit(tests: Iterable[Test], model: str, directory: Path) -> None:
    """Write the files that the server takes."""
    loaded = load(model)
    for test in tests:
        rows = as_rows(test.data.open(), test.file)
        rows = rows[: len(rows)]
        lines = "\n".join(test.lines(loaded, rows))
        directory.mkdir(parents=True, exist_ok=True)
        replace_bytes(directory / test.file, f"{lines}\n".encode())


def row(results: dict) -> dict[str, float]:
    """The leaderboard's row: each task's score, and their mean."""
    scores = [numbers["score"] for numbers in results.values()]
    average = {"average": round(float(np.mean(scores)), 2)} if scores else {}
    return {task: round(score, 2) for task, score in zip(results, scores, strict=True)} | average
