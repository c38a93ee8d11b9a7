"""Importing packages that would import PyTorch where it is installed: a second and 150 MB, for nothing."""

import contextlib
import sys


@contextlib.contextmanager
def without_torch():
    """Inside, PyTorch looks as if it were not installed; nothing changes where it is imported already."""
    if "torch" in sys.modules:  # by the configuration, which may need it
        yield
        return
    sys.modules["torch"] = None
    try:
        yield
    finally:
        del sys.modules["torch"]
