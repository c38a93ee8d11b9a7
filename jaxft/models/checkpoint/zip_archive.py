"""A zip archive of stored numbers, each member of which is checked before anything is made of it.

PyTorch's own reader trusts the archive's directory, which lies apart from what it describes: one wrong byte there
gives another tensor's numbers, one in a member wrong numbers.
"""

import mmap
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")  # of a member (PKWARE's APPNOTE.TXT, 4.3.7)
MOST_INFLATED = 20  # times the file's size, of all compressed members together; PyTorch's own are stored as they are
CHUNK = 1 << 26  # bytes that are looked at before their memory is given back,
SMALL = 1 << 20  # unless a member has no more than these


class Archive:
    """The members of a zip file by name, without the directory that they all are in.

    Raises ValueError or zipfile.BadZipFile where its directory does not agree with its members: other names, members
    that overlap or reach beyond the file, two of one name, more than MOST_INFLATED times the file's size.
    """

    def __init__(self, file: Path, whole: np.ndarray):
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        self.file, self.whole = file, whole  # the file's bytes, mapped
        self.entries = {entry.filename.partition("/")[2]: entry for entry in entries}
        if len(self.entries) < len(entries):
            raise ValueError("two members of the archive have one name")
        self.starts, end = {}, 0
        methods = {entry.compress_type for entry in entries}
        if not methods <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ValueError("it is compressed in a way that PyTorch does not know")
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            if entry.header_offset < end:
                raise ValueError("members of the archive overlap")
            start = self.starts[entry.filename] = self._start(entry)
            end = start + entry.compress_size
        if end > len(whole):
            raise ValueError("it is cut off")
        packed = [entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if sum(packed) > MOST_INFLATED * len(whole):
            raise ValueError(f"it would unpack to {sum(packed):,} bytes")

    def read(self, name: str) -> np.ndarray:
        """A member's bytes, a view of the file where it is stored as it is. Raises ValueError for a wrong CRC-32."""
        entry = self.entries[name]
        if entry.compress_type != zipfile.ZIP_STORED:
            with zipfile.ZipFile(self.file) as archive:
                return np.frombuffer(archive.read(entry), np.uint8)
        if entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise ValueError(f"its member {name} has two sizes, or is encrypted")
        start = self.starts[entry.filename]
        content = self.whole[start : start + entry.file_size]
        if _crc32(content) != entry.CRC:
            raise ValueError(f"the bytes of its member {name} are not those that were written (CRC-32)")
        return content

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Where a member's content begins: behind its own header, which has to name it as the directory does."""
        begin, content = entry.header_offset, memoryview(self.whole)
        if begin < 0 or begin + LOCAL_HEADER.size > len(content):
            raise ValueError("it is cut off")
        header = LOCAL_HEADER.unpack_from(content, begin)
        signature, flags, method, (name, extra) = header[0], header[2], header[3], header[-2:]
        begin += LOCAL_HEADER.size
        named = str(content[begin : begin + name], "utf-8" if flags & 0x800 else "cp437", "replace")
        if (signature, method, named) != (b"PK\3\4", entry.compress_type, entry.orig_filename):
            raise ValueError("the archive's directory and its members disagree")
        return begin + name + extra


def _crc32(content: np.ndarray) -> int:
    """CRC-32 of a view of a mapped file; releases the memory of each chunk once it is read."""
    total, mapped = 0, getattr(content, "_mmap", None)
    for start in range(0, len(content), CHUNK):
        total = zlib.crc32(content[start : start + CHUNK], total)
        if mapped is not None and len(content) > SMALL:
            mapped.madvise(mmap.MADV_DONTNEED)
    return total
