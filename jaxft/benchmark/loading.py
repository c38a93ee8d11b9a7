"""Measures loading, for both sides in the same way. Imports no JAX."""

import time
from collections.abc import Callable

import numpy as np

from jaxft.host.memory import peak_bytes

PAGE = 4096  # bytes


def measure(load: Callable[[], list[np.ndarray]]) -> dict[str, float]:
    """Seconds until `load` returns a model's arrays, and until all were read once, for a first and a second call.

    Arrays may be memory-mapped: their pages take time and memory only when they are read.
    """

    def once() -> tuple[float, float]:
        begin = time.perf_counter()
        arrays = load()
        loaded = time.perf_counter() - begin
        for array in arrays:
            array.reshape(-1).view(np.uint8)[::PAGE].sum()
        return loaded, time.perf_counter() - begin

    (seconds, read), peak = once(), peak_bytes()
    again, read_again = once()
    return {
        "seconds": seconds,
        "again_seconds": again,
        "read_seconds": read,
        "read_again_seconds": read_again,
        "peak_bytes": peak,
    }
