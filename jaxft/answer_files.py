"""Files of answers: a line, a row of a table, or a vector for each row of the input."""

import contextlib
import json
from pathlib import Path

import numpy as np

from jaxft.inference.inputs import texts_of
from jaxft.output_file import whole
from jaxft.problems import UserError, located, raise_problems, suggest

CHUNK = 1024  # rows held at a time


class Lines:
    """JSON lines."""

    def __init__(self, path: str, count: int):
        self.file = open(path, "w")

    def add(self, rows: list[dict], answers: list[dict]) -> None:
        for row in merged(rows, answers):
            self.file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self.file.close()


class Table:
    """Parquet, whose columns are those of the first rows."""

    def __init__(self, path: str, count: int):
        self.path, self.writer = path, None

    def add(self, rows: list[dict], answers: list[dict]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            table = pa.Table.from_pylist(merged(rows, answers), self.writer and self.writer.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(f"these rows make no table with the ones before, write .jsonl instead: {error}") from None
        self.writer = self.writer or parquet.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Vectors:
    """A NumPy array, float32 (rows, width), of embeddings and of nothing else."""

    def __init__(self, path: str, count: int):
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


def merged(rows: list[dict], answers: list[dict]) -> list[dict]:
    """The rows with their answers. A row's fields are kept: an answer of the same name is called predicted_NAME."""
    return [
        row | {f"predicted_{name}" if name in row else name: value for name, value in answer.items()}
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

    with whole(output) as partial, contextlib.closing(KINDS[ending](partial, len(rows))) as file:
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            try:
                answers = predict(some)
            except UserError as error:
                raise located(error, some, start + 1, rows.name, predict) from None
            file.add(some, answers)
