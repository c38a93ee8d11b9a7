"""All examples of a source, encoded once and stored as flat arrays."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from jaxft.data.data_report import DataReport
from jaxft.data.example import Example
from jaxft.problems import UserError, with_row_numbers

Arrays = dict[str, np.ndarray]  # an example without what is only counted, or a batch on the host
COUNTED = ("truncated", "empty", "notes", "fault")  # keys of an example that the report counts
FAULTS = 3  # rows of each kind of fault that the report quotes


class Encoded:
    """Examples by number. Each key is one flat array with offsets, so that millions of examples are a few objects.

    lengths  int32 (n,)  tokens of each example
    counts   int32 (n,)  predictions of each example (positions that the head reads)
    source   int32 (n,)  source row of each example
    """

    def __init__(self, flat: Arrays, offsets: dict[str, np.ndarray], source: np.ndarray, report: DataReport):
        """`flat` are the arrays of all examples, (sum of lengths, ...), and `offsets` int64 (n + 1,) by key."""
        self.flat, self.offsets, self.source, self.report = flat, offsets, source, report
        self.lengths = np.diff(offsets["tokens"]).astype(np.int32)
        self.counts = np.diff(offsets[prediction_key(flat) or "tokens"]).astype(np.int32)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> Arrays:
        return {
            key: values[self.offsets[key][number] : self.offsets[key][number + 1]] for key, values in self.flat.items()
        }


def encode_all(
    rows: Sequence[Any],
    encode: Callable[[list[dict]], Sequence[Example | list[Example] | str]],
    chunk: int = 1000,
    name: str = "the data",
) -> Encoded:
    """Encodes all rows, `chunk` at a time. `name` is what messages call them.

    `encode` gives an example for each row, a list of examples (windows), or the reason, as text, why the row is left
    out. A UserError that it raises gets the row numbers added. The keys `truncated`, `empty`, `notes` and `fault` of
    the examples are counted in the report and removed.

    Raises UserError if no example is left.
    """
    builder = _Builder()
    for start in range(0, len(rows), chunk):
        piece: list[dict[str, Any]] = list(rows[start : start + chunk])
        try:
            examples = encode(piece)
        except UserError as error:
            rest = (row for begin in range(start, len(rows), chunk) for row in rows[begin : begin + chunk])
            raise with_row_numbers(error, rest, start + 1, name, encode) from None
        builder.add(examples, start)
    return builder.finish(len(rows), name)


class _Builder:
    def __init__(self) -> None:
        self.pieces: list[Arrays] = []
        self.sizes: list[Arrays] = []
        self.source: list[int] = []
        self.dropped: Counter[str] = Counter()
        self.truncated = self.empty = self.windows = 0
        self.faults: Counter[str] = Counter()
        self.fault_examples: dict[str, list[str]] = {}
        self.notes: Counter[str] = Counter()

    def add(self, examples: Sequence[Example | list[Example] | str], start: int) -> None:
        added: list[Arrays] = []
        for number, given in enumerate(examples, start):
            if isinstance(given, str):
                self.dropped[given] += 1
                continue
            windows = given if isinstance(given, list) else [given]
            self.windows += len(windows) if isinstance(given, list) else 0
            for example in windows:
                added.append(self._counted(example, number))
        if not added:
            return
        keys = added[0].keys() if not self.pieces else self.pieces[0].keys()
        for arrays in added:
            if arrays.keys() != keys:
                raise ValueError(f"examples differ in their keys: {sorted(arrays)} and {sorted(keys)}")
        self.pieces.append({key: np.concatenate([arrays[key] for arrays in added]) for key in keys})
        self.sizes.append({key: np.array([len(arrays[key]) for arrays in added]) for key in keys})

    def _counted(self, example: Example, number: int) -> Arrays:
        self.truncated += bool(example.get("truncated", False))
        self.empty += bool(example.get("empty", False))
        self.notes.update(example.get("notes", {}))
        if "fault" in example:
            kind, what = example["fault"]
            self.faults[kind] += 1
            quoted = self.fault_examples.setdefault(kind, [])
            quoted += [f"row {number + 1}: {what}"] if len(quoted) < FAULTS else []
        self.source.append(number)
        return cast(Arrays, {key: value for key, value in example.items() if key not in COUNTED})

    def finish(self, rows: int, name: str) -> Encoded:
        if not self.pieces:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self.dropped.most_common())
            raise UserError(f"{name}: no example is left of {rows} rows. Reasons: {reasons or 'there are no rows'}")
        keys = self.pieces[0].keys()
        flat = {key: np.concatenate([piece[key] for piece in self.pieces]) for key in keys}
        offsets = {key: starts(np.concatenate([size[key] for size in self.sizes])) for key in keys}
        report = DataReport(
            rows=rows,
            kept=len(set(self.source)),
            tokens=len(flat["tokens"]),
            truncated=self.truncated,
            empty=self.empty,
            dropped=dict(self.dropped),
            notes=dict(self.notes),
            windows=self.windows,
            faults=dict(self.faults),
            fault_examples=self.fault_examples,
        )
        return Encoded(flat, offsets, np.array(self.source, np.int32), report)


def prediction_key(arrays: Arrays) -> str | None:
    """The key whose entries are an example's predictions; None if every token is one."""
    return next((key for key in ("at", "decoder_tokens") if key in arrays), None)


def starts(sizes: np.ndarray) -> np.ndarray:
    """Offsets int64 (n + 1,) of consecutive pieces with these sizes."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
