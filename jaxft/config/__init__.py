"""The configuration of a run: `Config` and its sections, components, configuration files, and overriding flags."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft.config.config_dict import from_config_dict, to_config_dict
    from jaxft.config.run import Config, EarlyStopping, Eval, Mesh, Save, load_config, save_config

__all__ = [
    "Config",
    "EarlyStopping",
    "Eval",
    "Mesh",
    "Save",
    "from_config_dict",
    "load_config",
    "save_config",
    "to_config_dict",
]


def __getattr__(name: str) -> Any:
    # Lazy, because the components of a configuration (data, tuning, optimizers) import jaxft.config.component.
    if name not in __all__:
        raise AttributeError(f"module 'jaxft.config' has no attribute {name!r}")
    module = "config_dict" if name.endswith("_config_dict") else "run"
    return getattr(importlib.import_module(f"jaxft.config.{module}"), name)
