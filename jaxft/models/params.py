"""The parameters of a model as one flat dict, path -> array, and the names that people use for them.

A stored path such as `layers.segments.0.0.attn.q.kernel` (segment, place) holds several layers at once. Its names are
`layers.2.attn.q.kernel`, one a layer: patterns, weight tables and reports speak of names only.
"""

import logging
import zlib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxft.models.model import Model
from jaxft.parallel.memory import device_memory, held, split_over
from jaxft.parallel.mesh import make_mesh, sharding

log = logging.getLogger("jaxft")

T = TypeVar("T", bound=nnx.Module)
Params = dict[str, jax.Array]
CONSTANTS = {"zeros": 0, "ones": 1}  # initialisers of param (models/layers/basic.py)


def variables(model: nnx.Module) -> dict[str, nnx.Param]:
    """Path -> abstract parameter of a model or a module, in its own order."""
    flat, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return {jax.tree_util.keystr(path, simple=True, separator="."): variable for path, variable in flat}


def bind(model: Model, params: Params) -> Model:
    """The model with the values of `params` (path -> array) in it; pure, so usable under jit and grad."""
    return jax.tree.unflatten(jax.tree.structure(model), [params[path] for path in variables(model)])


def bind_part(module: T, prefix: str, params: Mapping[str, jax.Array | np.ndarray]) -> T:
    """As `bind`, for a module of a model, the paths of whose parameters begin with `prefix`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(module, is_leaf=lambda node: isinstance(node, nnx.Variable))
    paths = [prefix + jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in flat]
    return jax.tree.unflatten(jax.tree.structure(module), [params[path] for path in paths])


def names(model: Model, path: str) -> list[str]:
    """The names behind a stored path: one for each row of a stacked array, itself for any other."""
    side, found, rest = path.rpartition("layers.segments.")
    if not found:
        return [path]
    number, place, rest = rest.split(".", 2)
    backbone: Any = model.encoder if side else model  # nnx gives None for a side that is not there
    segment = backbone.layers.plan[int(number)]
    return [f"{side}layers.{segment.layer(row, int(place))}.{rest}" for row in range(segment.repeats)]


def all_names(model: Model) -> list[str]:
    """Every parameter name of the model."""
    return [name for path in variables(model) for name in names(model, path)]


def roles(model: Model) -> dict[str, str]:
    """Name -> role (models/layers/basic.py) of all parameters but those that are fixed."""
    found = variables(model)
    return {
        name: variable.get_metadata("role")
        for path, variable in found.items()
        if not variable.get_metadata("fixed")
        for name in names(model, path)
    }


def trainable(model: Model) -> list[str]:
    """The names of all parameters but those that are fixed."""
    return list(roles(model))


def shape(variable: nnx.Param) -> tuple[int, ...]:
    return variable.get_value().shape


def is_quantized(variable: nnx.Param) -> bool:
    """Whether a parameter is a part of a kernel that is held in fewer bits."""
    return variable.get_metadata("origin") == "quantized"


def frozen_dtype(variable: nnx.Param, dtype: DTypeLike) -> jnp.dtype:
    """The dtype in which a parameter that does not train is stored: `dtype`, unless it is quantised."""
    return variable.get_value().dtype if is_quantized(variable) else jnp.dtype(dtype)


def shardings(model: Model, mesh: jax.sharding.Mesh) -> dict[str, jax.sharding.NamedSharding]:
    """Path -> placement of each parameter on the mesh."""
    return {
        path: sharding(variable.get_metadata("axes"), shape(variable), mesh)
        for path, variable in variables(model).items()
    }


def fitting_mesh(model: Model, dtype: DTypeLike) -> jax.sharding.Mesh:
    """All devices; the weights are whole on each if they leave room there, else split over all."""
    devices = jax.devices()[: jax.device_count()]

    def mesh(fsdp):
        return make_mesh({"data": len(devices) // fsdp, "fsdp": fsdp}, devices)

    def floor(fsdp):
        places = shardings(model, mesh(fsdp))
        return sum(held(shape(variable), dtype, places[path]) for path, variable in variables(model).items())

    fsdp, reason = split_over(floor, len(devices), device_memory(devices))
    if fsdp > 1:
        log.info("weights are %s", reason)
    return mesh(fsdp)


def initial(model: Model, path: str, seed: int) -> list[np.ndarray]:
    """New float32 values of a stored parameter, one array for each of its names; they depend on (seed, name) only.

    Made on the host: a compiled generator would take half a second for each shape before a model is loaded.
    """
    variable = variables(model)[path]
    each = shape(variable)[lead(variable) :]
    kind = variable.get_metadata("init")
    if callable(kind):
        return [np.asarray(kind(each), np.float32)] * len(names(model, path))
    if kind in CONSTANTS:
        return [np.full(each, CONSTANTS[kind], np.float32)] * len(names(model, path))
    generators = [np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(n.encode())])) for n in names(model, path)]
    if kind == "kaiming_uniform":  # He et al. 2015, with a = sqrt(5): torch.nn.Linear's
        bound = each[0] ** -0.5
        return [g.uniform(-bound, bound, each).astype(np.float32) for g in generators]
    return [np.float32(model.spec.init_std) * g.standard_normal(each, np.float32) for g in generators]


def lead(variable: nnx.Param) -> int:
    """1 if the parameter has a leading axis of layers."""
    return int(variable.get_metadata("axes")[:1] == ("layers",))
