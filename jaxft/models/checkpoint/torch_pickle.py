"""Tensors of PyTorch's own files (.bin, .pt, .pth), read without PyTorch and without executing what they hold.

Such a file is a pickle, which may name any function of any package, and storages of plain numbers beside it. Here a
pickle gets the few names that a dict of tensors needs, and they stand for functions of this file; any other name ends
the reading. Written by PyTorch 1.6 or later the file is a zip archive, before that pickles and storages in a row.
"""

import io
import math
import operator
import struct
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jaxft.models.checkpoint.pickle_opcodes import Refused, checked_key, evaluate
from jaxft.models.checkpoint.zip_archive import Archive
from jaxft.problems import clipped, raise_problems, truncated_repr

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
MOST_PICKLE = 1 << 26  # bytes: a tensor takes about 150
MOST_AXES = 64  # NumPy's own limit
MOST_REPEATED = 1 << 20  # numbers of a tensor whose storage has fewer


class Storage(NamedTuple):
    """Numbers of one format: their key in the file, and how many there are."""

    key: str
    dtype: type
    count: int


class Place(NamedTuple):
    """A tensor before its numbers are known: its storage, and where in it the numbers lie."""

    storage: Storage
    start: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickled(file: Path) -> dict[str, np.ndarray]:
    """Name -> read-only view. Raises UserError for what is no file of tensors, or would have to be executed, OSError
    where the system does not let it be read.

    An archive is read through once, for its checksums; a file without one has none.
    """
    try:
        whole = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.zeros(0, np.uint8)
        return _from_archive(file, whole) if whole[:4].tobytes() == b"PK\3\4" else _from_row(whole)
    except Refused as error:
        raise_problems([f"{file} is not read: {error}. Save the model anew as safetensors, where you trust the file"])
    except OSError:
        raise
    except Exception as error:  # Whatever wrong bytes lead to.
        reason = f"{type(error).__name__}: {clipped(str(error), 200)}"
        raise_problems([f"{file} is damaged ({reason}): copy it again"])


def _from_archive(file: Path, whole: np.ndarray) -> dict[str, np.ndarray]:
    archive = Archive(file, whole)
    if archive.entries["data.pkl"].file_size > MOST_PICKLE:
        raise Refused(f"its pickle is longer than {MOST_PICKLE:,} bytes")
    places = _evaluate(io.BytesIO(archive.read("data.pkl").tobytes()), [])
    if "byteorder" in archive.entries and archive.read("byteorder").tobytes() != b"little":
        raise Refused("its numbers are big-endian")
    return _views(places, lambda key: archive.read(f"data/{key}"))


def _from_row(whole: np.ndarray) -> dict[str, np.ndarray]:
    stream = io.BytesIO(whole[:MOST_PICKLE].tobytes())
    if _evaluate(stream, []) != MAGIC:
        raise Refused("it is no file of PyTorch")
    _evaluate(stream, []), _evaluate(stream, [])  # the version, and sizes of C's numbers
    stored: list[Storage] = []
    places, keys = _evaluate(stream, stored), _evaluate(stream, [])
    storages, found, at = {storage.key: storage for storage in stored}, {}, stream.tell()
    for key in keys:
        (count,) = struct.unpack("<q", whole[at : at + 8].tobytes())
        if not isinstance(key, str) or count != storages[key].count:
            raise ValueError("a storage has two sizes, or a strange name")
        size = count * np.dtype(storages[key].dtype).itemsize
        found[key], at = whole[at + 8 : at + 8 + size], at + 8 + size
    if at > len(whole):
        raise ValueError("it is cut off")
    return _views(places, found.__getitem__)


def _evaluate(stream: io.BytesIO, stored: list[Storage]):
    """The next pickle of the stream; `stored` gets the storages that it names."""

    def load(pid) -> Storage:
        stored.append(_storage(pid))
        return stored[-1]

    return evaluate(stream, _find, load)


def _views(places, read) -> dict[str, np.ndarray]:
    """`read(key)` gives the bytes of a storage."""
    if not isinstance(places, dict):
        raise Refused("it does not hold a dict of tensors")
    storages, views = {}, {}
    for name, place in places.items():
        if not isinstance(name, str) or not isinstance(place, Place):
            raise Refused(f"its entry {truncated_repr(name)} is no tensor")
        storage = place.storage
        if storage.key not in storages:
            storages[storage.key] = read(storage.key)
        if len(storages[storage.key]) != storage.count * np.dtype(storage.dtype).itemsize:
            raise ValueError("a storage has two sizes")
        views[name] = _view(storages[storage.key].view(storage.dtype), place)
    return views


def _view(numbers: np.ndarray, place: Place) -> np.ndarray:
    """The tensor's part of its storage; a part that reaches beyond it is a ValueError."""
    written = (place.start, *place.size, *place.stride)
    if len(place.size) != len(place.stride) or not all(0 <= number < 2**63 for number in written):
        raise ValueError("a tensor has a strange shape")
    if 0 in place.size:
        return np.zeros(place.size, numbers.dtype)
    last = place.start + sum((n - 1) * step for n, step in zip(place.size, place.stride, strict=True))
    if last >= len(numbers):
        raise ValueError("a tensor reaches beyond its storage")
    if math.prod(place.size) > max(len(numbers), MOST_REPEATED):
        raise Refused(f"a tensor of shape {place.size} repeats {len(numbers)} numbers")
    steps = tuple(step * numbers.itemsize for step in place.stride)
    return np.lib.stride_tricks.as_strided(numbers[place.start :], place.size, steps, subok=True, writeable=False)


def _find(module: str, name: str):
    """What a name of the pickle stands for: a function of this file, or nothing that could be called."""
    if (module, name) == ("collections", "OrderedDict"):
        return _ordered
    if module == "torch._utils" and name in REBUILD:
        return REBUILD[name]
    if module in ("torch", "torch.storage") and name in STORAGES:
        return name
    asked = f"it asks for {clipped(f'{module}.{name}')}"
    if module == "torch._utils" and name.startswith("_rebuild"):
        raise Refused(f"{asked}: jaxft reads plain tensors only, no quantised, sparse or nested ones and no FP8")
    raise Refused(f"{asked}, which a dict of tensors does not need")


def _storage(pid) -> Storage:
    """Of a persistent id: ("storage", format, key, device, how many numbers, part of another), the last left out."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or pid[1] not in list(STORAGES):
        raise Refused("it holds something else than storages of numbers")
    _, name, key, _, count, *part = pid
    if not isinstance(key, str) or not isinstance(count, int):
        raise TypeError("a storage has a strange name or size")
    if part not in ([], [None]):
        raise Refused("its storages are parts of others, as PyTorch before 0.4 wrote them")
    return Storage(key, STORAGES[name], count)


def _tensor(storage, start, size, stride, *rest) -> Place:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor has no storage")
    # Whole numbers of Python's own, which cannot overflow when they are multiplied.
    start, *lengths = map(operator.index, (start, *size, *stride))
    if len(lengths) > 2 * MOST_AXES:
        raise ValueError(f"a tensor has more than {MOST_AXES} axes")
    return Place(storage, start, tuple(lengths[: len(size)]), tuple(lengths[len(size) :]))


def _ordered(pairs=()) -> dict:
    return {checked_key(key): value for key, value in pairs}


REBUILD = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_parameter": lambda place, *rest: place,
}
