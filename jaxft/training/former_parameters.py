"""Checkpoints of earlier versions, in which some parameters had other paths (config/former_names.py)."""

from collections.abc import Mapping
from typing import Any

import jax

from jaxft.config.former_names import PARAMETERS

FORMER = {name: former for former, name in PARAMETERS.items()}


def has_former_parameters(saved: Any) -> bool:
    """Whether a key of the tree, at any depth, is a parameter's path of an earlier version."""
    paths, _ = jax.tree_util.tree_flatten_with_path(saved)
    keys = {key.key for path, _ in paths for key in path if isinstance(key, jax.tree_util.DictKey)}
    return any(part in PARAMETERS for key in keys for part in str(key).split("."))


def with_paths(tree: Any, names: Mapping[str, str]) -> Any:
    """The tree with `names` (PARAMETERS or FORMER) applied to each part of its dicts' keys, parameters' paths."""

    def renamed(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        paths = {key: ".".join(names.get(part, part) for part in str(key).split(".")) for key in node}
        return {paths[key]: with_paths(value, names) for key, value in node.items()}

    return jax.tree.map(renamed, tree, is_leaf=lambda node: isinstance(node, dict))
