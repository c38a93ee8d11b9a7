"""Files of answers: a line, a row of a table, or a vector for each row of the input."""

import contextlib
import logging
from pathlib import Path

import numpy as np

from jaxft.host.output_file import atomic_write
from jaxft.host.strict_json import dumps
from jaxft.inference.inputs import texts_of
from jaxft.problems import UserError, listed, raise_problems, suggest, truncated_repr, with_row_numbers

log = logging.getLogger("jaxft")

CHUNK = 1024  # rows held at a time


class Lines:
    """JSON lines."""

    def __init__(self, path: str, rows):
        self.file = open(path, "w", encoding="utf-8")

    def add(self, rows: list[dict], answers: list[dict]) -> None:
        for row in merged(rows, answers):
            self.file.write(dumps(row, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self.file.close()


class Table:
    """Parquet. The types of the columns are those of all `rows`, the types of the answers are known beforehand.

    `rows` are the input's, or how many there are: then their types are those of the first ones that are added.
    """

    def __init__(self, path: str, rows):
        self.path, self.writer = path, None
        self.schema = None if isinstance(rows, int) else rows_schema(rows)

    def add(self, rows: list[dict], answers: list[dict]) -> None:
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
            raise UserError(f"these rows make no table with the ones before, write .jsonl instead: {error}") from None
        self.writer.write_table(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Vectors:
    """A NumPy array, float32 (rows, width), of embeddings and of nothing else."""

    def __init__(self, path: str, rows):
        count = rows if isinstance(rows, int) else len(rows)
        self.path, self.count, self.done, self.array = path, count, 0, None

    def add(self, rows: list[dict], answers: list[dict]) -> None:
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


KINDS = {".jsonl": Lines, ".parquet": Table, ".npy": Vectors}


def rows_schema(rows):
    """The Arrow schema of all rows of a source. Raises UserError for a column that has no single type."""
    import pyarrow as pa

    found = None
    for start in range(0, len(rows), CHUNK):
        try:
            schema = pa.Table.from_pylist(rows[start : start + CHUNK]).schema
            found = schema if found is None else pa.unify_schemas([found, schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(
                f"{rows.name}: its rows make no table, write .jsonl instead: {truncated_repr(str(error))}"
            ) from None
    return found


def answer_types(answer: dict) -> dict:
    """The Arrow type of every field that answers like this one may have."""
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
        "score": number,
        "scores": pa.list_(number),
        "tokens": pa.list_(text),
        "tags": pa.list_(pa.struct({"word": text, **place, "tag": text, "score": number})),
        "value": number,
        **place,
    }
    if "tags" in answer and "scores" in answer:  # of a list of words
        known["tags"] = pa.list_(text)
    types = {name: known[name] for name in answer if name != "read"}
    return types | ({"read": whole_number} if {"tags", "entities"} & answer.keys() else {})


def free_name(name: str, columns) -> str:
    """What an answer's field is called beside these columns: a name that none of them has."""
    while name in columns:
        name = f"predicted_{name}"
    return name


def merged(rows: list[dict], answers: list[dict]) -> list[dict]:
    """The rows with their answers. A row's fields are kept: an answer of the same name is called predicted_NAME."""
    return [
        row | {free_name(name, row): value for name, value in answer.items()}
        for row, answer in zip(rows, answers, strict=True)
    ]


def write_answers(model, rows, columns: list[str], batch: int, output: str) -> None:
    """The answers to all rows' texts, in a file whose ending says of which kind; it is there when all of it is.

    Raises UserError with the numbers of rows that have no text.
    """
    ending = Path(output).suffix
    found = [] if ending in KINDS else [f"--output={output}: expected {', '.join(KINDS)}.{suggest(ending, KINDS)}"]
    raise_problems(model.unanswerable + found)

    def predict(some):
        return model.predict(texts_of(model.arch.kind, some, columns), batch)

    with atomic_write(output) as partial, contextlib.closing(KINDS[ending](partial, rows)) as file:
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            try:
                answers = predict(some)
            except UserError as error:
                raise with_row_numbers(error, some, start + 1, rows.name, predict) from None
            if start == 0:
                _say_names(answers[0], some[0])
            file.add(some, answers)


def _say_names(answer: dict, row: dict) -> None:
    renamed = [name for name in answer if free_name(name, row) not in (name, f"predicted_{name}")]
    if renamed:
        log.warning(
            "the rows have columns %s: the answers are called %s",
            listed([name for field in renamed for name in (field, f"predicted_{field}")]),
            listed([free_name(name, row) for name in renamed]),
        )
