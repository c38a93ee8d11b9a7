"""Sheets of Excel files as tables of text: what a csv file of the sheet has, with dates as ISO 8601 writes them."""

import datetime
import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from jaxft.data import mixed
from jaxft.data.example import Row
from jaxft.data.gzipped import open_bytes
from jaxft.data.reading import Reading
from jaxft.data.separated import repeated
from jaxft.data.tables import table_of
from jaxft.problems import UserError, listed, suggest

log = logging.getLogger("jaxft")

SHEETS, FORMULAS = "xl/worksheets/", (b"<f>", b"<f ")
DAMAGED = (zipfile.BadZipFile, KeyError, ValueError, SyntaxError)  # a SyntaxError is one of the XML


def workbook(path: str, how: Reading) -> pa.Table:
    """A table of the sheet that `how` names, or of the only one with cells; its first row with cells are the names.

    Formulas have the value that was saved with them. Raises UserError for formulas without one, and without openpyxl.
    """
    try:
        import openpyxl
    except ImportError:
        raise UserError(f"{path}: Excel files need openpyxl: pip install 'jaxft[excel]', or save it as .csv") from None
    with open_bytes(path) as file:
        data = io.BytesIO(file.read())

    def opened(values: bool) -> Any:
        return openpyxl.load_workbook(data, read_only=True, data_only=values)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts that do not matter here, such as rules for input
            sheet = _sheet(opened(True), path, how.sheet)
            place = f"{path}, sheet {sheet.title!r}"
            if _has_formulas(data):
                _check_formulas(sheet, opened(False)[sheet.title], place)
            rows = list(_texts(sheet, place))
    except DAMAGED as error:
        raise UserError(
            f"{path} cannot be read as an Excel file ({type(error).__name__}: {str(error)[:200]}): is it damaged, or "
            "protected by a password? Save it again as .xlsx"
        ) from None
    return _table(rows, place)


def _sheet(book: Any, path: str, name: str | None) -> Any:
    """The sheet of this name; None: the only one that has cells."""
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    for sheet in sheets.values():
        sheet.reset_dimensions()  # which some programs write wrongly
    if name is not None and name not in sheets:
        raise UserError(f"{path} has no sheet {name!r}.{suggest(name, sheets)} Sheets: {listed(sheets)}")
    if name is not None:
        return sheets[name]
    filled = [title for title, sheet in sheets.items() if any(map(any, _values(sheet)))]
    if len(filled) != 1:
        what = f"which sheet? Set config.data.sheet to one of: {listed(filled)}" if filled else "no sheet has a cell"
        raise UserError(f"{path}: {what}")
    if len(sheets) > 1:
        log.info("%s: read is the sheet %r, the only one with cells", path, filled[0])
    return sheets[filled[0]]


def _values(sheet: Any) -> Iterator[list[bool]]:
    return ([value is not None for value in row] for row in sheet.iter_rows(values_only=True))


def _has_formulas(data: io.BytesIO) -> bool:
    with zipfile.ZipFile(data) as archive:
        texts = (archive.read(name) for name in archive.namelist() if name.startswith(SHEETS))
        return any(mark in text for text in texts for mark in FORMULAS)


def _check_formulas(values: Any, formulas: Any, place: str) -> None:
    formulas.reset_dimensions()
    empty = [
        formula.coordinate
        for row, other in zip(values.iter_rows(), formulas.iter_rows(), strict=True)
        for cell, formula in zip(row, other, strict=True)
        if formula.value is not None and formula.data_type == "f" and cell.value is None
    ]
    if empty:
        raise UserError(
            f"{place}: the formulas of the cells {listed(empty)} have no values, because no program has calculated "
            "them: open the file in Excel or LibreOffice, and save it"
        )


def _texts(sheet: Any, place: str) -> Iterator[list[str]]:
    """The texts of the rows that have a cell."""
    errors = 0
    for row in sheet.iter_rows():
        errors += sum(cell.data_type == "e" for cell in row)
        texts = ["" if cell.data_type == "e" else _text(cell.value) for cell in row]
        if any(texts):
            yield texts
    if errors:
        log.warning("%s: %s cells hold errors such as #N/A, and are read as empty", place, f"{errors:,}")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()  # Excel has no dates without a time
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        minutes, seconds = divmod(round(value.total_seconds()), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    return str(value)


def _table(rows: list[list[str]], place: str) -> pa.Table:
    header, *rows = rows or [[]]
    width = max(map(len, [header, *rows]))
    columns = list(zip(*([*row, *[""] * (width - len(row))] for row in [header, *rows]), strict=True))
    unnamed = [number for number, (name, *cells) in enumerate(columns, 1) if not name and any(cells)]
    if unnamed:
        raise UserError(f"{place}: the columns {listed(unnamed)} have cells, but no name in the first row: name them")
    names = [name for name, *_ in columns if name]
    named = [number for number, (name, *_) in enumerate(columns) if name]

    def made() -> Iterator[Row]:
        for row in rows:
            yield {columns[number][0]: row[number] if number < len(row) else "" for number in named}

    table = table_of(made(), place, dict.fromkeys(names, pa.string()))
    return mixed.as_json(table, repeated(names, f"{place}: the first row"))
