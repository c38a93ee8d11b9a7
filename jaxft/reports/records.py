"""Files with one record a line, metrics.jsonl and pictures.jsonl: reading them, and repairing them from checkpoints.

A record has `step` and `split`. In metrics.jsonl the other values are numbers or null; in pictures.jsonl there is
`figures`.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

from jaxft.host import strict_json
from jaxft.host.output_file import replace_bytes

log = logging.getLogger("jaxft")

Record = dict[str, Any]


def read_lines(file: Path) -> list[Record]:
    """The records of a file; [] if there is none. Skips damaged lines, of which `mend` warns when a run continues."""
    return [record for _, record in _complete(file)[0]]


def earlier(file: Path, start: int, due: Collection[str] = ()) -> list[tuple[bytes, Record]]:
    """(line, record) up to step `start`, at which a run continues, without those of step `start` for the splits in
    `due`, which are evaluated again."""
    return [(line, record) for line, record in _complete(file)[0] if _is_earlier(record, start, due)]


def mend(
    file: Path,
    start: int,
    due: Collection[str],
    splits: Sequence[str],
    count: int | None,
    known: Callable[[], list[Record]],
) -> None:
    """Warns of lines that are missing up to step `start`, and restores those that checkpoints have.

    `count` is the number of lines that the checkpoint recorded (None: not recorded), `known()` returns the records in
    checkpoints, `splits` is the order of the lines of one step. A file with damaged lines is copied first.
    """
    kept, bad = earlier(file, start, due), _complete(file)[1]
    missing = bad if count is None else count - len(kept)
    if missing <= 0:
        return
    damaged = ""
    if bad:
        copy = file.with_name(file.name + ".unreadable")
        replace_bytes(copy, file.read_bytes())
        damaged = f"; {bad} that cannot be read are in {copy.name}"
    have = {_place(record) for _, record in kept}
    found = {_place(record): record for record in known() if _is_earlier(record, start, due)}
    added = [record for place, record in found.items() if place not in have]
    order = {split: number for number, split in enumerate(splits)}
    lines = kept + [(line_of(record), record) for record in added]
    lines.sort(key=lambda pair: (pair[1]["step"], order.get(pair[1]["split"], len(order))))
    replace_bytes(file, b"".join(line for line, _ in lines))
    log.warning(
        "%s lacks %d of the %d lines up to step %d: %d are restored from checkpoints, %d are lost%s",
        file,
        missing,
        missing + len(kept),
        start,
        len(added),
        max(missing - len(added), 0),
        damaged,
    )


def line_of(record: Record) -> bytes:
    """The record as a line of JSON."""
    return strict_json.dumps(record).encode() + b"\n"


def _is_earlier(record: Record, start: int, due: Collection[str]) -> bool:
    return record["step"] < start or record["step"] == start and record["split"] not in due


def _place(record: Record) -> tuple[int, str]:
    return record["step"], record["split"]


def _complete(file: Path) -> tuple[list[tuple[bytes, Record]], int]:
    """((line, record) of each valid line, number of damaged lines). A last line without a line end, as a killed run
    leaves it, is neither."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    ended = [line for line in lines if line.endswith(b"\n") and line.strip()]
    records = [(line, _record(line)) for line in ended]
    good = [(line, record) for line, record in records if record is not None]
    return good, len(records) - len(good)


def _record(line: bytes) -> Record | None:
    try:
        record = strict_json.parse(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not _is_number(record.get("step"), int) or record["step"] < 0:
        return None
    others = {name: value for name, value in record.items() if name not in ("step", "split", "figures")}
    figures = record.get("figures", [])
    drawable = isinstance(figures, list) and all(isinstance(one, dict) and "figure" in one for one in figures)
    numeric = all(value is None or _is_number(value, int | float) for value in others.values())
    return record if isinstance(record.get("split"), str) and drawable and numeric else None


def _is_number(value: object, kind: type | UnionType) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
