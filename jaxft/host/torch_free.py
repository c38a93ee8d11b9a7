"""Importing packages without the PyTorch that they would import if it is installed (a second, 150 MB)."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """A context in which PyTorch seems not to be installed; does nothing if it is imported already."""
    if "torch" in sys.modules:  # imported by the configuration, which may need it
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None  # an import then raises ImportError
    try:
        yield
    finally:
        del sys.modules["torch"]
