"""All examples of a source, encoded once and held as flat arrays."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from jaxft.problems import UserError, with_row_numbers

Example = dict[str, np.ndarray]
FAULTS = 3  # rows of each kind that are shown


class Encoded:
    """Examples by number. Each key is one flat array with offsets, so that millions of examples are a few objects.

    lengths  int32 (n,)  tokens of each example
    counts   int32 (n,)  head slots of each example
    source   int32 (n,)  source row of each example
    report   rows, kept, dropped (reason to number), tokens, truncated (examples that lost tokens), empty (examples of
             empty texts), notes (what else the task counts: words to number); where rows gave several examples each,
             `windows`, how many; `faults`, kind to number of rows, and `shown`, kind to the first of them, where there
             are any
    """

    def __init__(self, flat: Example, offsets: dict[str, np.ndarray], source: np.ndarray, report: dict):
        self.flat, self.offsets, self.source, self.report = flat, offsets, source, report
        self.lengths = np.diff(offsets["tokens"]).astype(np.int32)
        self.counts = np.diff(offsets[slot_key(flat) or "tokens"]).astype(np.int32)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> Example:
        return {
            key: values[self.offsets[key][number] : self.offsets[key][number + 1]] for key, values in self.flat.items()
        }


def encode_all(rows, encode: Callable[[list[dict]], list[Example | list[Example] | str]], chunk: int = 1000) -> Encoded:
    """Encodes every row, to one example or a list of them, its windows. A string from `encode` drops the row, for that
    reason; a UserError gets the row number added.

    An example may have the scalars `cut` and `empty`, whether it lost tokens and whether its text is empty, and a dict
    `notes` of numbers by what they count. They are summed and removed, and so is `fault`: a kind, and what it is in
    this row.
    Raises UserError if no example is left.
    """
    builder = _Builder()
    for start in range(0, len(rows), chunk):
        piece = rows[start : start + chunk]
        try:
            examples = encode(piece)
        except UserError as error:
            rest = (row for begin in range(start, len(rows), chunk) for row in rows[begin : begin + chunk])
            raise with_row_numbers(error, rest, start + 1, getattr(rows, "name", "the data"), encode) from None
        builder.add(examples, start)
    return builder.finish(len(rows), getattr(rows, "name", "the data"))


class _Builder:
    def __init__(self):
        self.pieces: list[Example] = []
        self.sizes: list[Example] = []
        self.source: list[int] = []
        self.dropped: Counter[str] = Counter()
        self.truncated = self.empty = self.windows = 0
        self.faults: Counter[str] = Counter()
        self.shown: dict[str, list[str]] = {}
        self.notes: Counter[str] = Counter()

    def add(self, examples: list[Example | list[Example] | str], start: int):
        kept = []
        for number, given in enumerate(examples, start):
            if isinstance(given, str):
                self.dropped[given] += 1
                continue
            several = isinstance(given, list)
            self.windows += len(given) if several else 0
            for example in given if several else [given]:
                kept.append(self._counted(example, number))
        if not kept:
            return
        keys = kept[0].keys() if not self.pieces else self.pieces[0].keys()
        for example in kept:
            if example.keys() != keys:
                raise ValueError(f"examples differ in their keys: {sorted(example)} and {sorted(keys)}")
        self.pieces.append({key: np.concatenate([example[key] for example in kept]) for key in keys})
        self.sizes.append({key: np.array([len(example[key]) for example in kept]) for key in keys})

    def _counted(self, example: Example, number: int) -> Example:
        self.truncated += bool(example.get("cut", False))
        self.empty += bool(example.get("empty", False))
        self.notes.update(example.get("notes", {}))
        if "fault" in example:
            kind, what = example["fault"]
            self.faults[kind] += 1
            shown = self.shown.setdefault(kind, [])
            shown += [f"row {number + 1}: {what}"] if len(shown) < FAULTS else []
        self.source.append(number)
        return {key: value for key, value in example.items() if key not in ("cut", "empty", "notes", "fault")}

    def finish(self, rows: int, name: str) -> Encoded:
        if not self.pieces:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self.dropped.most_common())
            raise UserError(f"{name}: no example is left of {rows} rows. Reasons: {reasons or 'there are no rows'}")
        keys = self.pieces[0].keys()
        flat = {key: np.concatenate([piece[key] for piece in self.pieces]) for key in keys}
        offsets = {key: starts(np.concatenate([size[key] for size in self.sizes])) for key in keys}
        report = {
            "rows": rows,
            "kept": len(set(self.source)),
            "dropped": dict(self.dropped),
            "tokens": len(flat["tokens"]),
            "truncated": self.truncated,
            "empty": self.empty,
            "notes": dict(self.notes),
        }
        report |= {"windows": self.windows} if self.windows else {}
        report |= {"faults": dict(self.faults), "shown": self.shown} if self.faults else {}
        return Encoded(flat, offsets, np.array(self.source, np.int32), report)


def slot_key(example: Example) -> str | None:
    """The key whose entries are an example's slots; None where they are its tokens."""
    return next((key for key in ("at", "decoder_tokens") if key in example), None)


def starts(sizes: np.ndarray) -> np.ndarray:
    """Offsets int64 (n + 1,) of pieces that follow each other."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
