"""A zip archive of stored numbers, whose members are checked before they are used.

PyTorch's own reader trusts the archive's directory, which is stored apart from the members: one wrong byte there
returns another tensor's numbers, and one in a member returns wrong numbers.
"""

import mmap
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")  # before each member (PKWARE's APPNOTE.TXT, 4.3.7)
MOST_INFLATED = 20  # size of all compressed members / size of the file; PyTorch does not compress its own
CHUNK = 1 << 26  # bytes that are checked before their memory is released
SMALL = 1 << 20  # bytes of a member whose memory is not released


class Archive:
    """The members of a zip file by name, without their common top folder.

    Raises ValueError or zipfile.BadZipFile if the archive's directory and its members disagree: different names,
    members that overlap or reach beyond the file, two of the same name, more than MOST_INFLATED.
    """

    def __init__(self, file: Path, content: np.ndarray):
        """`content` are the bytes of the file, memory-mapped."""
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        self.file, self.content = file, content
        self.entries = {entry.filename.partition("/")[2]: entry for entry in entries}
        if len(self.entries) < len(entries):
            raise ValueError("two members of the archive have the same name")
        self.starts: dict[str, int] = {}
        end = 0
        methods = {entry.compress_type for entry in entries}
        if not methods <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ValueError("its compression is not supported by PyTorch")
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            if entry.header_offset < end:
                raise ValueError("members of the archive overlap")
            start = self.starts[entry.filename] = self._start(entry)
            end = start + entry.compress_size
        if end > len(content):
            raise ValueError("it is truncated")
        packed = [entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if sum(packed) > MOST_INFLATED * len(content):
            raise ValueError(f"it would unpack to {sum(packed):,} bytes")

    def read(self, name: str) -> np.ndarray:
        """A member's bytes, as a view of the file unless compressed. Raises ValueError for a wrong CRC-32."""
        entry = self.entries[name]
        if entry.compress_type != zipfile.ZIP_STORED:
            with zipfile.ZipFile(self.file) as archive:
                return np.frombuffer(archive.read(entry), np.uint8)
        if entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise ValueError(f"its member {name} has contradictory sizes, or is encrypted")
        start = self.starts[entry.filename]
        content = self.content[start : start + entry.file_size]
        if _crc32(content) != entry.CRC:
            raise ValueError(f"its member {name} has a wrong checksum (CRC-32)")
        return content

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """The offset of a member's content, after its local header, whose name must be that of the directory."""
        begin, content = entry.header_offset, memoryview(self.content.data)
        if begin < 0 or begin + LOCAL_HEADER.size > len(content):
            raise ValueError("it is truncated")
        header = LOCAL_HEADER.unpack_from(content, begin)
        signature, flags, method, (name, extra) = header[0], header[2], header[3], header[-2:]
        begin += LOCAL_HEADER.size
        named = str(content[begin : begin + name], "utf-8" if flags & 0x800 else "cp437", "replace")
        if (signature, method, named) != (b"PK\3\4", entry.compress_type, entry.orig_filename):
            raise ValueError("the archive's directory and its members disagree")
        return begin + name + extra


def _crc32(content: np.ndarray) -> int:
    """CRC-32 of a view of a mapped file; releases each chunk from memory after it is read."""
    total, mapped = 0, getattr(content, "_mmap", None)
    for start in range(0, len(content), CHUNK):
        total = zlib.crc32(content[start : start + CHUNK].data, total)
        if mapped is not None and len(content) > SMALL:
            mapped.madvise(mmap.MADV_DONTNEED)
    return total
