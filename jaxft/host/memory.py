"""The memory of this process: allocator options, peak, and returning free memory to the system."""

import contextlib
import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

from jaxft.host import startup

TUNABLES = "GLIBC_TUNABLES"


def tune_allocator() -> None:
    """Restarts this command with glibc's malloc set to huge pages (2 MiB) and one arena per processor.

    A training step on CPU allocates and frees hundreds of MiB; with pages of 4 KiB a fifth of its time is spent in the
    kernel (MiniLM, 16 x 128: 1.23 s a step, 1.10 s with huge pages). Each of the default eight arenas per processor
    holds freed memory (quick start: 976 MiB, 931 MiB with one). glibc reads these options at process start. A value
    that the user has set is not changed.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if sys.platform != "linux" or TUNABLES in os.environ or not getattr(spec, "name", "").startswith("jaxft."):
        return
    os.environ[TUNABLES] = f"glibc.malloc.hugetlb=1:glibc.malloc.arena_max={os.cpu_count() or 1}"
    with startup.signals_held():
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def collect_rarely() -> None:
    """Python's collector of cyclic garbage looks at objects when 20,000 are new, not 700, and at all of them rarely.

    Importing the libraries and tracing a step make very many objects that stay: with Python's thresholds, looking at
    them took 0.7 s of the 6.2 s from the start of the quick start to its first step.
    """
    gc.set_threshold(20_000, 20, 100)


def release_memory() -> None:
    """Returns free memory to the system: compiling a step leaves about 300 MiB."""
    with contextlib.suppress(AttributeError, OSError):  # C libraries other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    with contextlib.suppress(OSError, StopIteration):  # on Linux, getrusage starts from the parent's peak
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
