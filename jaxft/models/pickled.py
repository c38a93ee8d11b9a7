"""Tensors of PyTorch's own files (.bin, .pt, .pth), read without PyTorch and without executing what they hold.

Such a file is a pickle, which may name any function of any package, and storages of plain numbers beside it. Here a
pickle gets the few names that a dict of tensors needs, and they stand for functions of this file; any other name ends
the reading. Written by PyTorch 1.6 or later the file is a zip archive, before that pickles and storages in a row.
"""

import io
import operator
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jaxft.problems import raise_problems

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file without an archive


class Refused(Exception):
    """The pickle is not that of a dict of tensors."""


class Place(NamedTuple):
    """A tensor before its numbers are known: a storage's key and number format, and where in it the numbers lie."""

    key: str
    dtype: type
    start: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickled(file: Path) -> dict[str, np.ndarray]:
    """Name -> read-only view. Raises UserError for what is no file of tensors, or would have to be executed."""
    try:
        return _from_archive(file) if zipfile.is_zipfile(file) else _from_row(file)
    except Refused as error:
        raise_problems([f"{file} is not read: {error}. Save the model anew as safetensors, where you trust the file"])
    except Exception as error:  # Whatever wrong bytes lead to, in pickle and zipfile.
        raise_problems([f"{file} is damaged ({type(error).__name__}: {error}): copy it anew"])


def _from_archive(file: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        places = _Reader(io.BytesIO(archive.read(entries["data.pkl"]))).load()
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise Refused("its numbers are big-endian")

        def storage(key):
            entry = entries[f"data/{key}"]
            if entry.compress_type != zipfile.ZIP_STORED:
                return np.frombuffer(archive.read(entry), np.uint8)
            with open(file, "rb") as stream:  # the numbers follow a header of 30 bytes, the name and an extra field
                stream.seek(entry.header_offset + 26)
                start = entry.header_offset + 30 + sum(struct.unpack("<HH", stream.read(4)))
            return _mapped(file, start, entry.file_size)

        return _views(places, storage)


def _from_row(file: Path) -> dict[str, np.ndarray]:
    with open(file, "rb") as stream:
        if _Reader(stream).load() != MAGIC:
            raise Refused("it is no file of PyTorch")
        _Reader(stream).load(), _Reader(stream).load()  # the version, and sizes of C's numbers
        reader = _Reader(stream)
        places, found = reader.load(), {}
        for key in _Reader(stream).load():
            count = struct.unpack("<q", stream.read(8))[0]
            found[key] = _mapped(file, stream.tell(), count * np.dtype(reader.storages[key]).itemsize)
            stream.seek(found[key].nbytes, io.SEEK_CUR)
    return _views(places, found.__getitem__)


def _mapped(file: Path, start: int, size: int) -> np.ndarray:
    if start + size > file.stat().st_size or size < 0:
        raise ValueError("it is cut off")
    return np.memmap(file, np.uint8, "r", offset=start, shape=(size,)) if size else np.zeros(0, np.uint8)


def _views(places, storage) -> dict[str, np.ndarray]:
    if not isinstance(places, dict):
        raise Refused("it does not hold a dict of tensors")
    storages, views = {}, {}
    for name, place in places.items():
        if not isinstance(name, str) or not isinstance(place, Place):
            raise Refused(f"its entry {name!r} is no tensor")
        if place.key not in storages:
            storages[place.key] = storage(place.key)
        views[name] = _view(storages[place.key].view(place.dtype), place)
    return views


def _view(numbers: np.ndarray, place: Place) -> np.ndarray:
    """The tensor's part of its storage; a part that reaches beyond it is a ValueError."""
    if len(place.size) != len(place.stride) or min((place.start, *place.size, *place.stride), default=0) < 0:
        raise ValueError("a tensor has a strange shape")
    if 0 in place.size:
        return np.zeros(place.size, place.dtype)
    last = place.start + sum((n - 1) * step for n, step in zip(place.size, place.stride, strict=True))
    if last >= len(numbers):
        raise ValueError("a tensor reaches beyond its storage")
    steps = tuple(step * numbers.itemsize for step in place.stride)
    return np.lib.stride_tricks.as_strided(numbers[place.start :], place.size, steps, subok=True, writeable=False)


class _Reader(pickle.Unpickler):
    """An unpickler that knows nothing but what a dict of tensors is made of."""

    def __init__(self, stream):
        super().__init__(stream)
        self.storages: dict[str, type] = {}  # number format of each storage

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in REBUILD:
            return REBUILD[name]
        if module in ("torch", "torch.storage") and name in STORAGES:
            return name  # nothing that could be called
        raise Refused(f"it asks for {module}.{name}, which a dict of tensors does not need")

    def persistent_load(self, pid):
        kind, name, key, *_ = pid
        if kind != "storage" or name not in STORAGES:
            raise Refused(f"it holds {kind!r}, which is no storage")
        self.storages[key] = STORAGES[name]
        return key, STORAGES[name]


def _tensor(storage, start, size, stride, *rest) -> Place:
    # Whole numbers of Python's own, which cannot overflow when they are multiplied.
    start, *lengths = map(operator.index, (start, *size, *stride))
    return Place(*storage, start, tuple(lengths[: len(size)]), tuple(lengths[len(size) :]))


REBUILD = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_parameter": lambda place, *rest: place,
}
