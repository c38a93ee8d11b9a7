"""brat's standoff files: the text in NAME.txt, its spans in NAME.ann, one a line that begins with T.

https://brat.nlplab.org/standoff.html
"""

import os
import re

import pyarrow as pa

from jaxft.data import encodings
from jaxft.data.annotations.annotated_text import SPANS, TEXT, AnnotatedText, Mark, raise_listed
from jaxft.data.annotations.units import rows_of
from jaxft.data.gzipped import open_text
from jaxft.data.reading import Reading
from jaxft.data.tables import table_of
from jaxft.problems import UserError, truncated_repr

LINE = re.compile(r"(T\S+)\t(\S+) (\d+ \d+(?:;\d+ \d+)*)(?:\t(.*))?")
TYPES = {
    "id": pa.string(),
    TEXT: pa.string(),
    SPANS: pa.list_(pa.struct({"start": pa.int64(), "end": pa.int64(), "label": pa.string()})),
}


def standoff(path: str, how: Reading) -> pa.Table:
    """One row for NAME.ann: `id` (NAME), the text of NAME.txt, and its spans. Other lines than T are not read.

    Raises UserError if there is no NAME.txt, and for the lines with discontinuous spans.
    """
    text = _text_of(path, how.named_encoding)
    marks, problems = [], []
    with open_text(path, how.encoding) as file:
        for number, line in enumerate(file, 1):
            if not line.startswith("T"):
                continue
            try:
                marks.append(_mark(line.rstrip("\r\n"), text))
            except UserError as error:
                problems += [f"{path}, line {number}: {problem}" for problem in error.problems]
    raise_listed(problems, path)
    record = AnnotatedText(text, marks, {"id": os.path.basename(_stem(path))}, place=path)
    return table_of(rows_of([record], path, how.offsets), path, TYPES)


def _stem(path: str) -> str:
    name = path[:-3] if path.lower().endswith(".gz") else path
    return os.path.splitext(name)[0]


def _text_of(path: str, named: str | None) -> str:
    """The text, whose encoding may be another than that of the spans."""
    names = [_stem(path) + ending for ending in (".txt", ".txt.gz")]
    found = next(filter(os.path.isfile, names), None)
    if found is None:
        raise UserError(f"{path}: its text is missing: there is no {names[0]}")
    encoding = encodings.without_mark(found, named) if named else encodings.marked_encoding(found)
    try:
        return _content(found, encoding)
    except UnicodeError as error:
        if named or encoding != encodings.DEFAULT or not isinstance(error, UnicodeDecodeError):
            name = "UTF-8" if encoding == encodings.DEFAULT else encoding.upper()
            raise UserError(f"{found} is not {name} ({error}): convert the file, or set config.data.encoding") from None
        return _content(found, encodings.guessed_encoding(found, error))


def _content(path: str, encoding: str) -> str:
    with open_text(path, encoding) as file:
        return file.read()


def _mark(line: str, text: str) -> Mark:
    parts = LINE.fullmatch(line)
    if parts is None:
        raise UserError(f"expected T1, a tab, LABEL START END, a tab and the text, found {truncated_repr(line)}")
    name, label, places, content = parts.groups()
    ends = [tuple(map(int, piece.split())) for piece in places.split(";")]
    for (_, end), (start, _) in zip(ends, ends[1:], strict=False):
        # brat cuts a span at a line break: such pieces are one span.
        if not 0 <= end <= start <= len(text) or text[end:start].strip():
            raise UserError(
                f"{name} ({label}) is discontinuous, {places}: tags cannot express it. Make it one span, or remove it"
            )
    return Mark(ends[0][0], ends[-1][1], label, content)
