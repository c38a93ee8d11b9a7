"""The tensors of a checkpoint directory as memory-mapped views, which read nothing until they are used."""

import mmap
import os.path
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxft.host import strict_json
from jaxft.models.checkpoint.torch_pickle import read_pickled
from jaxft.problems import UserError, clipped, raise_problems, reading, truncated_repr

# safetensors' names of number formats (its README, "Format").
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
FLOATS = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)  # formats of weights
Read = Callable[[Path], dict[str, np.ndarray]]  # a file's tensors by name
INDEX = "model.safetensors.index.json"


def open_tensors(directory: str | Path) -> dict[str, np.ndarray]:
    """Name -> read-only view, from the first of FILES that the directory has; an index lists shards.

    Raises UserError that lists the problems of all files: missing, truncated, damaged, of an unknown number format,
    outside of the directory, or in disagreement with the index.
    """
    directory = Path(directory)
    for name, read in FILES.items():
        if os.path.exists(directory / name):
            with reading(directory / name):
                return read(directory / name)
    raise UserError(f"{directory} has no weights: none of {', '.join(FILES)}")


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """Name -> read-only view of one file's tensors, in safetensors or PyTorch's format. Raises UserError as
    `open_tensors` does."""
    with reading(file):
        return _views(file) if file.suffix == ".safetensors" else read_pickled(file)


def has_weights(directory: Path) -> bool:
    """Whether the directory has any of FILES."""
    return any(os.path.exists(directory / name) for name in FILES)


def check_floats(tensors: dict[str, np.ndarray]) -> None:
    """Raises UserError for a model's tensors that are not FLOATS: quantised weights need scales, which are not read."""
    others: dict[str, list[str]] = {}
    for name, array in tensors.items():
        if array.dtype not in FLOATS:
            others.setdefault(array.dtype.name, []).append(name)
    raise_problems(
        f"the checkpoint has {kind} in {clipped(sorted(found)[0], 200)}"
        f"{f' and {len(found) - 1} more tensors' if len(found) > 1 else ''}, where the model has floats: quantised "
        "weights are not supported, use the model's checkpoint in float32, bfloat16 or float16"
        for kind, found in others.items()
    )


def release(views: list[np.ndarray]) -> None:
    """Releases the pages of these views' files from memory; further use reads them again."""
    maps = {id(found): found for view in views if (found := getattr(view, "_mmap", None)) is not None}
    for found in maps.values():
        found.madvise(mmap.MADV_DONTNEED)


def _shards(index: Path, read: Read, ending: str) -> dict[str, np.ndarray]:
    """The tensors of all shards. Index and shards must agree; otherwise it is unknown which values are the model's."""
    weight_map = _weight_map(index, ending)
    listed, problems = sorted(set(weight_map.values())), []
    tensors: dict[str, np.ndarray] = {}
    for name in listed:
        try:
            with reading(index.parent / name):
                views = read(index.parent / name)
        except UserError as error:
            problems += error.problems
            continue
        wanted = {tensor for tensor, file in weight_map.items() if file == name}
        problems += [
            f"{index} says that {tensor} is in {name}, which lacks it" for tensor in sorted(wanted - views.keys())
        ]
        problems += [
            f"{name} holds {tensor}, which {index} does not list there" for tensor in sorted(views.keys() - wanted)
        ]
        tensors |= views
    stem = index.name.partition(".")[0]
    spare = {file.name for file in index.parent.glob(f"{stem}-*{ending}")} - set(listed)
    problems += [f"{index} does not list {name} of the same directory: remove one of them" for name in sorted(spare)]
    raise_problems(problems)
    return tensors


def _weight_map(index: Path, ending: str) -> dict[str, str]:
    """Tensor -> file name in the index's own directory."""
    content = _json(index.read_bytes(), index)
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()) or not table:
        raise UserError(f"{index} has no weight_map of tensor names to file names; copy it again")
    names = sorted(set(table.values()))
    outside = [name for name in names if PurePosixPath(name).name != name or not name.endswith(ending)]
    problems = [
        f"{index} lists {truncated_repr(name)}, not a {ending[1:]} file of its own directory" for name in outside
    ]
    raise_problems(
        problems
        or [
            f"{index} lists {clipped(name)}, which is not there"
            for name in names
            if not os.path.isfile(index.parent / name)
        ]
    )
    return table


def _views(file: Path) -> dict[str, np.ndarray]:
    """One safetensors file: 8 bytes of header length, a JSON header, then the tensors at the offsets it gives."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        start = stream.read(8)
        length: int = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise_problems([f"{file} is not a complete safetensors file: its header is truncated; copy it again"])
        _check(file, size)
        header = _json(stream.read(length), file)
    header.pop("__metadata__", None)
    strange = sorted({entry["dtype"] for entry in header.values()} - DTYPES.keys())
    raise_problems([f"{file} holds tensors of type {clipped(name)}, which jaxft does not support" for name in strange])
    data = np.memmap(file, np.uint8, "r", offset=8 + length) if size > 8 + length else np.zeros(0, np.uint8)
    return {name: _view(data, entry) for name, entry in header.items()}


def _check(file: Path, size: int) -> None:
    """Checks header and length of the file with the safetensors library."""
    try:
        with safe_open(file, "numpy"):
            pass
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        what = "is truncated, or has bytes that no tensor owns" if "not fully covered" in reason else "is damaged"
        raise_problems([f"{file} {what} ({size} bytes; {reason}): copy it again"])


def _json(text: bytes, file: Path) -> Any:
    try:
        return strict_json.parse(text)
    except ValueError as error:
        raise UserError(f"{file} is damaged: it has invalid JSON ({error}); copy it again") from None


def _view(data: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    begin, end = entry["data_offsets"]
    return data[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _flax(file: Path) -> dict[str, np.ndarray]:
    """The parameters of a former Flax model of transformers, with PyTorch's names and layouts.

    Reading msgpack executes nothing. The whole file is read into memory.
    """
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    try:
        tree = flatten_dict(msgpack_restore(file.read_bytes()), sep=".")
    except OSError:
        raise
    except Exception as error:  # flax and msgpack raise many types for wrong bytes
        raise UserError(
            f"{file} is damaged ({type(error).__name__}: {clipped(str(error), 200)}): copy it again"
        ) from None
    if strange := [name for name, array in tree.items() if not isinstance(array, np.ndarray)]:
        raise_problems([f"{file} holds {clipped(strange[0])}, which is not an array: not a model of transformers"])
    return {_name_of_flax(name): array.T if name.endswith(".kernel") else array for name, array in tree.items()}


def _name_of_flax(name: str) -> str:
    module, _, last = name.rpartition(".")
    return f"{module}.weight" if last in ("kernel", "embedding", "scale") else name


# Files of weights; the first that a directory has is read.
FILES: dict[str, Read] = {
    "model.safetensors": _views,
    INDEX: partial(_shards, read=_views, ending=".safetensors"),
    "pytorch_model.bin": read_pickled,
    "pytorch_model.bin.index.json": partial(_shards, read=read_pickled, ending=".bin"),
    "flax_model.msgpack": _flax,
}
