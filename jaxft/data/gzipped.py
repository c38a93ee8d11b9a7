"""The bytes of files; gzip files are unpacked up to a limit."""

import gzip
import io
import os
from typing import Any

from jaxft.problems import UserError

EXPANSION = 50  # the most bytes per byte of a gzip file; texts have 3 to 20
EXPANDED = 2**28  # bytes that every gzip file may hold


def open_bytes(path: str) -> io.BufferedReader:
    """The bytes of a file, unpacked if its name ends with .gz."""
    return io.BufferedReader(_Expanded(path), 2**17) if path.lower().endswith(".gz") else open(path, "rb")


def open_text(path: str, encoding: str = "utf-8-sig") -> io.TextIOWrapper:
    """The text of a file, by default in UTF-8 with or without a byte order mark; line ends are unchanged."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline="")


class _Expanded(io.RawIOBase):
    """An unpacked gzip file. Raises UserError beyond the limit: 10 MB may expand to 10 GB of zeros."""

    def __init__(self, path: str):
        self.path, self.file = path, gzip.open(path, "rb")
        self.left = max(EXPANDED, EXPANSION * os.path.getsize(path))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise UserError(
                f"{self.path} expands to more than {EXPANSION} times its size, more than any text does: is it damaged? "
                f"If not, unpack it (gunzip --keep {self.path}) and name the unpacked file"
            )
        return count

    def close(self) -> None:
        self.file.close()
        super().close()
