"""The memory of devices, and whether weights must be split to fit."""

import math
import os
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jax.typing import DTypeLike

# GiB that a program can use on one device, according to the compiler, by JAX's name of the device kind.
HBM = {"TPU v2": 7.5, "TPU v3": 15.5, "TPU v4": 31.75, "TPU v5 lite": 15.75, "TPU v5": 95.0, "TPU v6 lite": 31.25}
SHARE = 0.5  # of a device's memory that weights, gradients and optimizer may take: the rest is for activations


def device_memory(devices: list) -> int | None:
    """Bytes of each device: what the device reports, otherwise what its kind has; None if unknown.

    CPU devices share the machine's memory.
    """
    device, local = devices[0], jax.local_devices()
    stats = device.memory_stats() if device in local else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(local)
    known = [gib for kind, gib in HBM.items() if re.fullmatch(rf"{kind}p?", device.device_kind)]
    return int(known[0] * 2**30) if known else None


def split_over(floor: Callable[[int], int], devices: int, memory: int | None) -> tuple[int, str]:
    """(number of devices to split the weights over, why): 1 if replicas fit in SHARE of `memory`, else all `devices`.

    `floor(n)` is the bytes that a device holds if the weights are split over n.
    """
    if memory is None:
        return 1, "whole on each device, whose memory is not known: config.mesh.fsdp would split them"
    whole = f"take {_gib(floor(1))} of a device's {_gib(memory)}"
    if floor(1) <= SHARE * memory or devices == 1:
        return 1, f"whole on each device: they {whole}"
    split = f"split over {devices} devices, {_gib(floor(devices))} on each: whole they would {whole}"
    return devices, split


def held(shape: tuple[int, ...], dtype: DTypeLike, place: Sharding) -> int:
    """Bytes of an array on one device."""
    return math.prod(place.shard_shape(shape)) * jnp.dtype(dtype).itemsize


def _gib(number: float) -> str:
    return f"{number / 2**30:.2f} GiB"
