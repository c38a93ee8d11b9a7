"""The tensors of a checkpoint directory as memory-mapped views: nothing is read before somebody looks at it."""

import json
import math
import mmap
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxft.problems import raise_problems

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
}


def open_tensors(directory) -> dict[str, np.ndarray]:
    """Name -> read-only view, from model.safetensors or from the shards which its index lists.

    Raises UserError if there are no weights, or if a file is missing, truncated or of an unknown number format.
    """
    directory = Path(directory)
    tensors = {}
    for file in _files(directory):
        tensors.update(_views(file))
    return tensors


def release(view: np.ndarray) -> None:
    """Give back the memory that reading a view's file has taken; what is looked at again is read again."""
    if getattr(view, "_mmap", None) is not None:
        view._mmap.madvise(mmap.MADV_DONTNEED)


def _files(directory: Path) -> list[Path]:
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        pickled = " (a pickled .bin is not read: save it anew as safetensors)" if list(directory.glob("*.bin")) else ""
        raise_problems([f"{directory} has neither model.safetensors nor model.safetensors.index.json{pickled}"])
    names = _json(index.read_bytes(), index).get("weight_map", {}).values()
    files = [directory / name for name in sorted(set(names))]
    raise_problems([f"{index} lists {file.name}, which is not there" for file in files if not file.exists()])
    return files


def _views(file: Path) -> dict[str, np.ndarray]:
    """One safetensors file: 8 bytes of header length, a JSON header, then the tensors at the offsets it gives."""
    with open(file, "rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else math.inf
        if length > file.stat().st_size - 8:
            raise_problems([f"{file} is not a whole safetensors file: its header is cut off; copy it anew"])
        header = _json(stream.read(length), file)
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end > file.stat().st_size:
        raise_problems([f"{file} is truncated: {file.stat().st_size} bytes of {end}; copy it anew"])
    strange = sorted({entry["dtype"] for entry in header.values()} - DTYPES.keys())
    raise_problems([f"{file} holds tensors of type {name}, which jaxft does not read" for name in strange])
    data = np.memmap(file, np.uint8, "r", offset=8 + length) if end > 8 + length else np.zeros(0, np.uint8)
    return {name: _view(data, entry) for name, entry in header.items()}


def _json(text: bytes, file: Path) -> dict:
    try:
        return json.loads(text)
    except ValueError:
        raise_problems([f"{file} is damaged: there is no JSON where there should be; copy it anew"])


def _view(data, entry) -> np.ndarray:
    begin, end = entry["data_offsets"]
    return data[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
