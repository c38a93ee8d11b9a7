"""The encoding of text files: UTF-8, what a byte order mark says, and Windows-1252 if the bytes leave no doubt."""

import codecs
import contextlib
import logging
import re
import zlib

from jaxft.data.gzipped import open_bytes
from jaxft.problems import UserError, truncated_repr

log = logging.getLogger("jaxft")

DEFAULT = "utf-8-sig"  # with or without a mark
# The mark of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WINDOWS = "cp1252"  # equal to Latin-1 but for the bytes 80 to 9F, which are no letters in Latin-1
# What texts in Western languages hold of it. Other encodings of one byte a letter fill the rest of it as well.
WESTERN = frozenset(
    "àâäáãåæçèéêëìíîïñòóôöõøœùúûüýßÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØŒÙÚÛÜÝšžŠŽ€£§©®°ªº²½«»‹›“”‘’„‚–—…•·¡¿´\xa0\xad"
)
JOINS = "’´·–—\xad\xa0"  # which may stand between two letters
DOUBT = 0.02  # the largest share of characters that are doubtful
RUN = 3  # non-ASCII letters in a row that Western languages do not have
SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
FIX = "set config.data.encoding, such as cp1252, latin-1, cp1250, cp1251 or gb18030, or convert the file to UTF-8"


def marked_encoding(path: str) -> str:
    """The encoding that the byte order mark of a file says; without one, UTF-8.

    Raises UserError for UTF-16 without a mark, which is UTF-8 as well, with NUL characters.
    """
    with open_bytes(path) as file:
        begin = file.read(4)
    found = next((encoding for mark, encoding in MARKS.items() if begin.startswith(mark)), DEFAULT)
    if found == DEFAULT and b"\0" in begin:
        raise UserError(
            f"{path} begins with NUL bytes, as UTF-16 without a byte order mark does: set config.data.encoding to "
            "utf-16-le or utf-16-be, or convert the file to UTF-8"
        )
    if found != DEFAULT:
        log.info("%s: read as %s, as its byte order mark says", path, found.upper())
    return found


def without_mark(path: str, encoding: str) -> str:
    """An encoding of the same texts whose decoder removes the byte order mark with which the file may begin."""
    name = codecs.lookup(encoding).name
    if name == "utf-8":
        return DEFAULT
    with open_bytes(path) as file:
        begin = file.read(4)
    marked = [found for mark, found in MARKS.items() if begin.startswith(mark) and name.startswith(found + "-")]
    return marked[0] if marked else encoding


def encoding_problems(name: str | None) -> list[str]:
    """A problem if Python knows no text encoding with this name."""
    try:
        known = name is None or codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError, UnicodeError):
        known = False
    return [] if known else [f"encoding is {truncated_repr(name)}, expected a name such as utf-8, utf-16 or cp1252"]


def guessed_encoding(path: str, error: UnicodeDecodeError) -> str:
    """Windows-1252, for a file that is not UTF-8; the log says so. Raises UserError if it could be another encoding."""
    with open_bytes(path) as file:
        data = file.read()
    doubt = _doubt(data)
    if doubt:
        raise UserError(f"{path}{bad_line(path)} is not UTF-8 ({error.reason}), and {doubt}: {FIX}") from None
    line = next(filter(lambda line: not line.isascii(), data.splitlines())).decode(WINDOWS)
    log.warning(
        "%s is not UTF-8: read as Windows-1252 (cp1252), in which it begins %s. If that is wrong, %s",
        path,
        truncated_repr(_around(line)),
        FIX,
    )
    return WINDOWS


def _around(line: str) -> str:
    """The part of a line around its first character that is not ASCII."""
    at = next(place for place, letter in enumerate(line) if not letter.isascii())
    return line[max(0, at - 20) : at + 30]


def _doubt(data: bytes) -> str:
    """Evidence in the bytes that they are not Windows-1252 text; "" if there is none."""
    if SEQUENCE.search(data):
        return "other parts of it are"
    if b"\0" in data:
        return "it holds NUL bytes"
    try:
        text = data.decode(WINDOWS)
    except UnicodeDecodeError:
        return "it is not Windows-1252"
    found = re.findall(r"[^\x00-\x7f]", text)
    strange = sum(letter not in WESTERN for letter in found)
    inside = len(re.findall(rf"(?<=[^\W\d_])[^\x00-\x7f\w{JOINS}](?=[^\W\d_])", text))
    runs = sum(map(len, re.findall(rf"[^\W\d_\x00-\x7f]{{{RUN},}}", text)))
    return "its bytes do not tell which encoding it has" if strange + inside + runs > DOUBT * len(found) else ""


def bad_line(path: str) -> str:
    """The place of the first bytes that are not UTF-8."""
    damaged = (OSError, EOFError, zlib.error, UserError)  # the rest of the file may be damaged as well
    with contextlib.suppress(*damaged), open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f", line {number}, byte {error.start + 1} of the line,"
    return ""
