"""All tasks of a benchmark such as GLUE: training, files for its server, and one row of scores."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from jaxft.config import Config
from jaxft.config.protocols import Source
from jaxft.data.source import as_rows
from jaxft.host.output_file import replace_bytes
from jaxft.host.strict_json import dumps
from jaxft.inference.inputs import texts_of
from jaxft.inference.model import LoadedModel, load
from jaxft.problems import raise_problems, suggest
from jaxft.training.fit import fit

log = logging.getLogger("jaxft")

Lines = Callable[[LoadedModel, list[dict]], Iterable[str]]  # (model, rows) -> the lines of a file


@dataclass(frozen=True)
class Test:
    """Rows without labels, and the file of predictions that the benchmark's server takes."""

    file: str  # its name
    data: Source
    lines: Lines


@dataclass(frozen=True)
class Entry:
    """One task of a benchmark; its score is the mean of `metrics`, each an "EVAL/METRIC"."""

    metrics: tuple[str, ...] = ()
    tests: tuple[Test, ...] = ()
    of: str | None = None  # the task whose model predicts, if this one has no training data


def answers(model: LoadedModel, rows: list[dict], columns: tuple[str, ...]) -> list[dict]:
    """The model's predictions for the texts in these columns (or templates)."""
    return model.predict(texts_of(model.arch.kind, rows, columns))


def tsv(columns: tuple[str, ...], value: Callable[[LoadedModel, dict], object]) -> Lines:
    """A table with `index` and `prediction`, the format of GLUE's server. `value(model, answer)` is a prediction."""

    def lines(model: LoadedModel, rows: list[dict]) -> Iterator[str]:
        yield "index\tprediction"
        for number, (row, answer) in enumerate(zip(rows, answers(model, rows, columns), strict=True)):
            yield f"{row.get('idx', number)}\t{value(model, answer)}"

    return lines


def jsonl(columns: tuple[str, ...], value: Callable[[LoadedModel, dict], object]) -> Lines:
    """Lines {"idx": ..., "label": ...}, the format of SuperGLUE's server. `value(model, answer)` is a label."""

    def lines(model: LoadedModel, rows: list[dict]) -> Iterator[str]:
        for number, (row, answer) in enumerate(zip(rows, answers(model, rows, columns), strict=True)):
            yield dumps({"idx": row.get("idx", number), "label": value(model, answer)}, ensure_ascii=False)

    return lines


def class_name(model: LoadedModel, answer: dict) -> str:
    """The predicted class."""
    return answer["label"]


def class_number(model: LoadedModel, answer: dict) -> int:
    """The id of the predicted class."""
    return model.pretrained.raw["label2id"][answer["label"]]


def run(
    entries: Mapping[str, Entry], config: Callable[[str], Config], workdir: Path, only: list[str] | None = None
) -> dict[str, dict[str, float]]:
    """Task -> {"score": ..., and its metrics}, in percent. Tasks that are complete in `workdir` are not trained again.

    `config` returns the configuration of a task. Each has its own work directory; the files for the server are written
    to `workdir`/submission. Raises UserError for unknown tasks in `only`, for tasks whose model (`Entry.of`) is not
    trained, and with several processes, since prediction runs in one.
    """
    raise_problems(problems(entries, workdir, only))
    results = {}
    for task, entry in entries.items():
        if only and task not in only:
            continue
        if entry.of is None:
            log.info("%s: %s", workdir.name, task)
            found = fit(config(task), str(workdir / task)).metrics
            numbers = {key: 100 * found[key.partition("/")[0]][key.partition("/")[2]] for key in entry.metrics}
            results[task] = {"score": float(np.mean(list(numbers.values()))), **numbers}
        submit(entry.tests, str(workdir / (entry.of or task) / "model"), workdir / "submission")
    return results


def problems(entries: Mapping[str, Entry], workdir: Path, only: list[str] | None) -> list[str]:
    """Why the tasks in `only` (None: all) cannot be run."""
    found = [] if jax.process_count() == 1 else ["a suite runs in one process, with all of its devices"]
    for task in only or ():
        if task not in entries:
            found.append(f"there is no task {task!r}, only {', '.join(entries)}.{suggest(task, entries)}")
        elif (of := entries[task].of) is not None and of not in (only or ()) and not (workdir / of / "model").exists():
            found.append(
                f"{task} is answered by the model of {of}, which is not trained in {workdir}: --only={of},{task}"
            )
    return found


def submit(tests: Iterable[Test], model: str, directory: Path) -> None:
    """Writes the files for the server."""
    loaded = load(model)
    for test in tests:
        opened = as_rows(test.data.open(), test.file)
        rows = opened[: len(opened)]
        lines = "\n".join(test.lines(loaded, rows))
        directory.mkdir(parents=True, exist_ok=True)
        replace_bytes(directory / test.file, f"{lines}\n".encode())


def row(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The leaderboard's row: the score of each task, and their mean."""
    scores = [numbers["score"] for numbers in results.values()]
    average = {"average": round(float(np.mean(scores)), 2)} if scores else {}
    return {task: round(score, 2) for task, score in zip(results, scores, strict=True)} | average
