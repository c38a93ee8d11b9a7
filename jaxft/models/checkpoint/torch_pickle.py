"""Tensors of PyTorch's own files (.bin, .pt, .pth), read without PyTorch and without executing their contents.

Such a file is a pickle, which may name any function of any package, and storages of plain numbers. This module resolves
only the few names that a dict of tensors needs, to functions of its own; any other name is an error. Files of PyTorch
1.6 or later are zip archives; older ones are a sequence of pickles and storages.
"""

import io
import math
import operator
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxft.models.checkpoint.pickle_opcodes import Refused, checked_key, unpickle
from jaxft.models.checkpoint.zip_archive import Archive
from jaxft.problems import UserError, clipped, truncated_repr

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
MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file that is not an archive
MOST_PICKLE = 1 << 26  # bytes: a tensor takes about 150
MOST_AXES = 64  # NumPy's own limit
MOST_REPEATED = 1 << 20  # numbers of a tensor with strides of 0, whose storage has fewer


class Storage(NamedTuple):
    """A flat array: its key in the file, its format, its length."""

    key: str
    dtype: type
    length: int


class TensorView(NamedTuple):
    """A tensor as a view of its storage; start and strides count numbers, not bytes."""

    storage: Storage
    start: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickled(file: Path) -> dict[str, np.ndarray]:
    """Name -> read-only view.

    Raises UserError for files that are not tensors only, or that would have to be executed, and OSError if the file
    cannot be opened. An archive is read once, for its checksums; older files have no checksums.
    """
    try:
        content: np.ndarray = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.zeros(0, np.uint8)
        return _from_archive(file, content) if content[:4].tobytes() == b"PK\3\4" else _from_sequence(content)
    except Refused as error:
        raise UserError(f"{file} is not read: {error}. If you trust the file, save the model as safetensors") from None
    except OSError:
        raise
    except Exception as error:  # wrong bytes lead to many types
        reason = f"{type(error).__name__}: {clipped(str(error), 200)}"
        raise UserError(f"{file} is damaged ({reason}): copy it again") from None


def _from_archive(file: Path, content: np.ndarray) -> dict[str, np.ndarray]:
    archive = Archive(file, content)
    if archive.entries["data.pkl"].file_size > MOST_PICKLE:
        raise Refused(f"its pickle is longer than {MOST_PICKLE:,} bytes")
    tensors = _unpickle(io.BytesIO(archive.read("data.pkl").tobytes()), [])
    if "byteorder" in archive.entries and archive.read("byteorder").tobytes() != b"little":
        raise Refused("its numbers are big-endian")
    return _views(tensors, lambda key: archive.read(f"data/{key}"))


def _from_sequence(content: np.ndarray) -> dict[str, np.ndarray]:
    stream = io.BytesIO(content[:MOST_PICKLE].tobytes())
    if _unpickle(stream, []) != MAGIC:
        raise Refused("it is not a file of PyTorch")
    _unpickle(stream, []), _unpickle(stream, [])  # the protocol version, and sizes of C types
    stored: list[Storage] = []
    tensors, keys = _unpickle(stream, stored), _unpickle(stream, [])
    storages, found, at = {storage.key: storage for storage in stored}, {}, stream.tell()
    for key in keys:
        (count,) = struct.unpack("<q", content[at : at + 8].tobytes())
        if not isinstance(key, str) or count != storages[key].length:
            raise ValueError("a storage has contradictory sizes, or an invalid name")
        size = count * np.dtype(storages[key].dtype).itemsize
        found[key], at = content[at + 8 : at + 8 + size], at + 8 + size
    if at > len(content):
        raise ValueError("it is truncated")
    return _views(tensors, found.__getitem__)


def _unpickle(stream: io.BytesIO, stored: list[Storage]) -> Any:
    """The value of the stream's next pickle; its storages are appended to `stored`."""

    def load(pid: object) -> Storage:
        stored.append(_storage(pid))
        return stored[-1]

    return unpickle(stream, _find, load)


def _views(tensors: object, read: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    """`read(key)` returns the bytes of a storage."""
    if not isinstance(tensors, dict):
        raise Refused("it does not hold a dict of tensors")
    storages: dict[str, np.ndarray] = {}
    views = {}
    for name, view in tensors.items():
        if not isinstance(name, str) or not isinstance(view, TensorView):
            raise Refused(f"its entry {truncated_repr(name)} is not a tensor")
        storage = view.storage
        if storage.key not in storages:
            storages[storage.key] = read(storage.key)
        if len(storages[storage.key]) != storage.length * np.dtype(storage.dtype).itemsize:
            raise ValueError("a storage has contradictory sizes")
        views[name] = _view(storages[storage.key].view(storage.dtype), view)
    return views


def _view(numbers: np.ndarray, view: TensorView) -> np.ndarray:
    """The tensor as a view of its storage. Raises ValueError if it reaches beyond the storage."""
    written = (view.start, *view.size, *view.stride)
    if len(view.size) != len(view.stride) or not all(0 <= number < 2**63 for number in written):
        raise ValueError("a tensor has an invalid shape")
    if 0 in view.size:
        return np.zeros(view.size, numbers.dtype)
    last = view.start + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
    if last >= len(numbers):
        raise ValueError("a tensor reaches beyond its storage")
    if math.prod(view.size) > max(len(numbers), MOST_REPEATED):
        raise Refused(f"a tensor of shape {view.size} repeats {len(numbers)} numbers")
    steps = tuple(step * numbers.itemsize for step in view.stride)
    return np.lib.stride_tricks.as_strided(numbers[view.start :], view.size, steps, subok=True, writeable=False)


def _find(module: str, name: str) -> object:
    """What a name of the pickle resolves to: a function of this module, or the name of a number format."""
    if (module, name) == ("collections", "OrderedDict"):
        return _ordered
    if module == "torch._utils" and name in REBUILD:
        return REBUILD[name]
    if module in ("torch", "torch.storage") and name in STORAGES:
        return name
    asked = f"it asks for {clipped(f'{module}.{name}')}"
    if module == "torch._utils" and name.startswith("_rebuild"):
        raise Refused(f"{asked}: jaxft supports plain tensors only, not quantised, sparse, nested or FP8 ones")
    raise Refused(f"{asked}, which a dict of tensors does not need")


def _storage(pid: object) -> Storage:
    """The storage of a persistent id: ("storage", format, key, device, length), and in old files a sixth entry."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or pid[1] not in list(STORAGES):
        raise Refused("it has objects other than storages of numbers")
    _, name, key, _, count, *part = pid
    if not isinstance(key, str) or not isinstance(count, int):
        raise TypeError("a storage has an invalid name or size")
    if part not in ([], [None]):
        raise Refused("its storages are parts of others, as PyTorch before 0.4 wrote them")
    return Storage(key, STORAGES[name], count)


def _tensor(storage: Any, start: Any, size: Any, stride: Any, *rest: Any) -> TensorView:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor has no storage")
    # Python's integers, whose products cannot overflow.
    start, *lengths = map(operator.index, (start, *size, *stride))
    if len(lengths) > 2 * MOST_AXES:
        raise ValueError(f"a tensor has more than {MOST_AXES} axes")
    return TensorView(storage, start, tuple(lengths[: len(size)]), tuple(lengths[len(size) :]))


def _ordered(pairs: Iterable[tuple[Any, Any]] = ()) -> dict:
    return {checked_key(key): value for key, value in pairs}


REBUILD: dict[str, Callable[..., TensorView]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_parameter": lambda view, *rest: view,
}
