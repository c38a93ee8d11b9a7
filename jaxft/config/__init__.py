"""The configuration of a run: `Config` and its parts, components, the file that makes it, and flags that change it."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxft.config.config_dict import from_config_dict, to_config_dict
    from jaxft.config.run import Config, Eval, Mesh, Save, load_config, save_config

__all__ = ["Config", "Eval", "Mesh", "Save", "from_config_dict", "load_config", "save_config", "to_config_dict"]


def __getattr__(name: str):
    # Lazily: what a configuration holds (data, tuning, optimizers) is made of jaxft.config.component.
    if name not in __all__:
        raise AttributeError(f"module 'jaxft.config' has no attribute {name!r}")
    module = "config_dict" if name.endswith("_config_dict") else "run"
    return getattr(importlib.import_module(f"jaxft.config.{module}"), name)
