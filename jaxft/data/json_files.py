"""JSON and JSON lines as tables: objects as they are, and the nested forms of SQuAD and of annotation tools."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from jaxft.data import squad
from jaxft.data.annotations.formats import annotated, unwrapped
from jaxft.data.annotations.pairs import is_pair
from jaxft.data.gzipped import open_text
from jaxft.data.reading import Reading
from jaxft.data.tables import table_of
from jaxft.host import strict_json
from jaxft.problems import UserError


def json_lines(path: str, how: Reading) -> pa.Table:
    """A table of the objects of a file, one in each line."""
    with open_text(path, how.encoding) as file:
        return table_of(annotated(_values(path, file), path, how.offsets), path)


def json_document(path: str, how: Reading) -> pa.Table:
    """A list of objects, an object whose `data` is such a list (nested in SQuAD), or one object per line."""
    with open_text(path, how.encoding) as file:
        text = file.read()
    try:
        value = unwrapped(strict_json.parse(text))
    except ValueError as error:
        first, _newline, rest = text.lstrip().partition("\n")
        if not rest.strip() or not _is_value(first):
            raise UserError(f"{path}: not JSON ({error})") from None
        return table_of(annotated(_values(path, io.StringIO(text)), path, how.offsets), path)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if not isinstance(value, list):
        raise UserError(
            f"{path}: expected a list of objects, an object with a list `data`, or one object per line; found "
            f"{_kind(value)}"
        )
    for number, row in enumerate(value, 1):
        if not isinstance(row, dict) and not is_pair(row):
            raise UserError(f"{path}, row {number}: expected an object, found {_kind(row)}")
    if squad.is_nested(value):
        return table_of(squad.questions(value, path), path)
    return table_of(annotated(iter(value), path, how.offsets), path)


def _is_value(line: str) -> bool:
    """Whether a line may be one of a file with a value per line."""
    try:
        value = strict_json.parse(line)
    except ValueError:
        return False
    return isinstance(value, dict) or is_pair(value)


def _values(path: str, lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = strict_json.parse(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict) and not is_pair(row):
            raise UserError(f"{path}, line {number}: expected an object, found {_kind(row)}")
        yield row


def _kind(value: Any) -> str:
    """The JSON type of a value."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
