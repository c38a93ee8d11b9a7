"""Files as bytes, unpacked where they are gzip files, and not more of them than is in proportion."""

import gzip
import io
import os

from jaxft.problems import UserError

EXPANSION = 50  # times its size that a gzip file may hold; of texts it is 3 to 20
EXPANDED = 2**28  # bytes that any gzip file may hold


def open_bytes(path: str) -> io.BufferedReader:
    """The bytes of a file; of one with .gz what it holds."""
    return io.BufferedReader(_Expanded(path), 2**17) if path.lower().endswith(".gz") else open(path, "rb")


class _Expanded(io.RawIOBase):
    """What a gzip file holds. Raises UserError where that is out of all proportion: 10 MB may hold 10 GB of zeros."""

    def __init__(self, path: str):
        self.path, self.file = path, gzip.open(path, "rb")
        self.left = max(EXPANDED, EXPANSION * os.path.getsize(path))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self.file.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise UserError(
                f"{self.path} expands to more than {EXPANSION} times its size, as no text does: is it damaged? If it "
                f"is meant so, unpack it (gunzip --keep {self.path}) and name the unpacked file"
            )
        return count

    def close(self) -> None:
        self.file.close()
        super().close()
