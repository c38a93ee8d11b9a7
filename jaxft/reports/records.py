"""Files with a record a line, metrics.jsonl and pictures.jsonl: which lines are whole, and which a checkpoint knows.

A record has `step` and `split`; of metrics the others are numbers or null, of pictures there is `figures`.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from jaxft.host import strict_json
from jaxft.host.output_file import replace_bytes

log = logging.getLogger("jaxft")


def read_lines(file: Path) -> list[dict]:
    """The records of a file, [] without one. Lines that are none are left out: `mend` says so when a run goes on."""
    return [record for _, record in _whole(file)[0]]


def earlier(file: Path, start: int, due: Iterable[str] = ()) -> list[tuple[bytes, dict]]:
    """(line, record) of what a run that goes on after step `start` has written: not what came later, of a part that
    was lost, and not that step's own of the splits of `due`, which are to be evaluated again."""
    return [(line, record) for line, record in _whole(file)[0] if _is_earlier(record, start, due)]


def mend(
    file: Path, start: int, due: list[str], splits: list[str], count: int | None, known: Callable[[], list[dict]]
) -> None:
    """Say what is missing of the `count` lines up to step `start`, and put back what checkpoints know of them.

    `known()` gives these records, `splits` is the order of the lines of one step. None for `count`: nobody counted.
    Lines that cannot be read are set aside.
    """
    kept, bad = earlier(file, start, due), _whole(file)[1]
    missing = bad if count is None else count - len(kept)
    if missing <= 0:
        return
    aside = ""
    if bad:
        copy = file.with_name(file.name + ".unreadable")
        replace_bytes(copy, file.read_bytes())
        aside = f"; {bad} that cannot be read are in {copy.name}"
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
        aside,
    )


def line_of(record: dict) -> bytes:
    return strict_json.dumps(record).encode() + b"\n"


def _is_earlier(record: dict, start: int, due: Iterable[str]) -> bool:
    return record["step"] < start or record["step"] == start and record["split"] not in due


def _place(record: dict) -> tuple[int, str]:
    return record["step"], record["split"]


def _whole(file: Path) -> tuple[list[tuple[bytes, dict]], int]:
    """(line, record) of each whole line, and how many are not. A last line without an end is of a run that was killed:
    it is not counted."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    ended = [line for line in lines if line.endswith(b"\n") and line.strip()]
    records = [(line, _record(line)) for line in ended]
    good = [(line, record) for line, record in records if record is not None]
    return good, len(records) - len(good)


def _record(line: bytes) -> dict | None:
    try:
        record = strict_json.parse(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not _is_number(record.get("step"), int) or record["step"] < 0:
        return None
    others = {name: value for name, value in record.items() if name not in ("step", "split", "figures")}
    figures = record.get("figures", [])
    drawable = isinstance(figures, list) and all(isinstance(one, dict) and "figure" in one for one in figures)
    fine = all(value is None or _is_number(value, int | float) for value in others.values())
    return record if isinstance(record.get("split"), str) and drawable and fine else None


def _is_number(value, kind) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
