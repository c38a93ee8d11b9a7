"""Files of answers: a JSON line, a row of a table, or a vector for each row of the input."""

import contextlib
import csv
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jaxft.data.example import Row
from jaxft.host.output_file import atomic_write
from jaxft.host.strict_json import dumps
from jaxft.inference.inputs import texts_of
from jaxft.problems import UserError, listed, raise_problems, suggest, truncated_repr, with_row_numbers
from jaxft.tasks.source_rows import SourceRows

if TYPE_CHECKING:
    import pyarrow as pa

    from jaxft.inference.model import LoadedModel

log = logging.getLogger("jaxft")

CHUNK = 1024  # rows in memory at the same time


class AnswerFile(Protocol):
    """A file that is written a chunk of rows at a time."""

    def add(self, rows: list[Row], answers: list[Row]) -> None:
        """Writes rows with their answers."""

    def close(self) -> None:
        """Finishes the file."""


class Lines:
    """JSON lines."""

    def __init__(self, path: str, rows: SourceRows | int):
        self.file = open(path, "w", encoding="utf-8")

    def add(self, rows: list[Row], answers: list[Row]) -> None:
        for row in merged(rows, answers):
            self.file.write(dumps(row, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self.file.close()


class Separated:
    """Columns separated by commas or tabs, with a heading. Lists and objects are JSON, None is an empty cell."""

    def __init__(self, path: str, delimiter: str):
        self.file = open(path, "w", encoding="utf-8", newline="")
        self.writer = csv.writer(self.file, delimiter=delimiter, lineterminator="\n")
        # Before Python 3.13, csv leaves a carriage return unquoted, which ends a row for those who read it.
        self.quoting = csv.writer(self.file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        self.names: list[str] = []

    @classmethod
    def commas(cls, path: str, rows: SourceRows | int) -> "Separated":
        """A .csv file."""
        return cls(path, ",")

    @classmethod
    def tabs(cls, path: str, rows: SourceRows | int) -> "Separated":
        """A .tsv file."""
        return cls(path, "\t")

    def add(self, rows: list[Row], answers: list[Row]) -> None:
        if not self.names:
            self.names = list(rows[0])
            for name in flat(dict.fromkeys(answer_types(answers[0])) | answers[0]):
                self.names.append(free_name(name, self.names))
            self.write(self.names)
        for row in merged(rows, [flat(answer) for answer in answers]):
            self.write([cell(row.get(name)) for name in self.names])

    def write(self, cells: list[str]) -> None:
        """One row."""
        (self.quoting if any("\r" in text for text in cells) else self.writer).writerow(cells)

    def close(self) -> None:
        self.file.close()


def flat(answer: Row) -> Row:
    """The answer with a field NAME.KEY for each value of an object."""
    found: Row = {}
    for name, value in answer.items():
        inner = {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
        found |= inner
    return found


def cell(value: Any) -> str:
    """The text of a value in a table of texts."""
    if isinstance(value, str):
        return value
    text = dumps(value, ensure_ascii=False, default=str)
    return "" if text == "null" else text


class Table:
    """Parquet. The types of the columns are those of all `rows`; those of the answers are fixed.

    `rows` may be the number of rows: the types are then those of the first rows that are added.
    """

    def __init__(self, path: str, rows: SourceRows | int):
        self.path = path
        self.writer: Any = None  # a pyarrow.parquet.ParquetWriter
        self.schema = None if isinstance(rows, int) else rows_schema(rows)

    def add(self, rows: list[Row], answers: list[Row]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        if self.writer is None:
            schema = self.schema or pa.Table.from_pylist(rows).schema
            for name, kind in answer_types(answers[0]).items():
                schema = schema.append(pa.field(free_name(name, schema.names), kind))
            self.schema, self.writer = schema, parquet.ParquetWriter(self.path, schema)
        try:
            table = pa.Table.from_pylist(merged(rows, answers), self.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(
                f"these rows do not fit the table of the ones before: write .jsonl instead ({error})"
            ) from None
        self.writer.write_table(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Vectors:
    """A NumPy array of embeddings, float32 (rows, width)."""

    def __init__(self, path: str, rows: SourceRows | int):
        count = rows if isinstance(rows, int) else len(rows)
        self.path, self.count, self.done = path, count, 0
        self.array: np.memmap[Any, Any] | None = None

    def add(self, rows: list[Row], answers: list[Row]) -> None:
        if "embedding" not in answers[0]:
            raise UserError("a .npy file holds embeddings: write these answers to .jsonl or .parquet")
        found = np.array([answer["embedding"] for answer in answers], np.float32)
        if self.array is None:
            self.array = np.lib.format.open_memmap(self.path, "w+", np.float32, (self.count, found.shape[1]))
        self.array[self.done : self.done + len(found)] = found
        self.done += len(found)

    def close(self) -> None:
        if self.array is not None:
            self.array.flush()


KINDS: dict[str, Callable[[str, SourceRows | int], AnswerFile]] = {
    ".jsonl": Lines,
    ".csv": Separated.commas,
    ".tsv": Separated.tabs,
    ".parquet": Table,
    ".npy": Vectors,
}


def rows_schema(rows: SourceRows) -> "pa.Schema":
    """The Arrow schema of all rows of a source. Raises UserError for a column whose values have different types."""
    import pyarrow as pa

    found = None
    for start in range(0, len(rows), CHUNK):
        try:
            schema = pa.Table.from_pylist(rows[start : start + CHUNK]).schema
            found = schema if found is None else pa.unify_schemas([found, schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(
                f"{rows.name}: its rows do not fit a table: write .jsonl instead ({truncated_repr(str(error))})"
            ) from None
    return found


def answer_types(answer: Row) -> "dict[str, pa.DataType]":
    """The Arrow types of all fields that answers like this one may have."""
    import pyarrow as pa

    text, number, whole_number = pa.string(), pa.float64(), pa.int64()
    place = {"start": whole_number, "end": whole_number}
    known = {
        "answer": text,
        "candidates": pa.list_(pa.struct({"answer": text, "score": number, **place})),
        "choice": whole_number,
        "embedding": pa.list_(number),
        "no_answer": number,
        "label": text,
        "perplexity": number,
        "entities": pa.list_(pa.struct({"type": text, **place, "text": text, "score": number})),
        "labels": pa.list_(text),
        "label_scores": pa.struct(dict.fromkeys(answer.get("label_scores", ()), number)),
        "score": number,
        "scores": pa.list_(number),
        "tokens": pa.list_(text),
        "tags": pa.list_(pa.struct({"word": text, **place, "tag": text, "score": number})),
        "value": number,
        **place,
    }
    if "tags" in answer and "scores" in answer:  # for lists of words
        known["tags"] = pa.list_(text)
    types = {name: known[name] for name in answer if name != "read"}
    return types | ({"read": whole_number} if {"tags", "entities"} & answer.keys() else {})


def free_name(name: str, columns: Collection[str]) -> str:
    """The name of a field of answers, with predicted_ in front if a column has this name."""
    while name in columns:
        name = f"predicted_{name}"
    return name


def merged(rows: list[Row], answers: list[Row]) -> list[Row]:
    """The rows with their answers; an answer with the name of a column is called predicted_NAME."""
    return [
        row | {free_name(name, row): value for name, value in answer.items()}
        for row, answer in zip(rows, answers, strict=True)
    ]


def write_answers(
    model: "LoadedModel", rows: SourceRows, columns: list[str], batch: int, output: str, kept: SourceRows | None = None
) -> None:
    """Writes the answers for all rows to a file, whose suffix chooses the format. The file appears when it is complete.

    `kept` are the rows as they are written; None: as they are read. Raises UserError with the numbers of rows that have
    no text.
    """
    ending = Path(output).suffix
    found = [] if ending in KINDS else [f"--output={output}: expected {', '.join(KINDS)}.{suggest(ending, KINDS)}"]
    raise_problems(model.unanswerable + found)
    kept = rows if kept is None else kept

    def predict(some: list[Row]) -> list[Row]:
        return model.predict(texts_of(model.arch.kind, some, columns), batch)

    with atomic_write(output) as partial, contextlib.closing(KINDS[ending](partial, kept)) as file:
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            try:
                answers = predict(some)
            except UserError as error:
                raise with_row_numbers(error, some, start + 1, rows.name, predict) from None
            if start == 0:
                _log_names(answers[0], some[0])
            file.add(kept[start : start + CHUNK], answers)


def write_hits(output: str, rows: SourceRows, hits: list[list[Row]]) -> None:
    """Writes a JSON line for each row, with its hits in a search."""
    with atomic_write(output) as partial, contextlib.closing(Lines(partial, rows)) as file:
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            file.add(some, [{"hits": found} for found in hits[start : start + CHUNK]])


def _log_names(answer: Row, row: Row) -> None:
    """Logs the names of answers that are called neither NAME nor predicted_NAME."""
    renamed = [name for name in answer if free_name(name, row) not in (name, f"predicted_{name}")]
    if renamed:
        log.warning(
            "the rows have columns %s, so that answers are called %s",
            listed([name for field in renamed for name in (field, f"predicted_{field}")]),
            listed([free_name(name, row) for name in renamed]),
        )
