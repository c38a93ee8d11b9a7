"""The configuration of a run: `Config` and its parts, components, the file that makes it, and flags that change it."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxft.config.run import Config, Eval, Mesh, Save, load_config, save_config

__all__ = ["Config", "Eval", "Mesh", "Save", "load_config", "save_config"]


def __getattr__(name: str):
    # Lazily: what a configuration holds (data, tuning, optimizers) is made of jaxft.config.component.
    if name not in __all__:
        raise AttributeError(f"module 'jaxft.config' has no attribute {name!r}")
    return getattr(importlib.import_module("jaxft.config.run"), name)
