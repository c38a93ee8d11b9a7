"""Over how many devices a run splits its weights: over none if replicas fit, else over all."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from jaxft.config import Config
from jaxft.models.model import Model
from jaxft.models.params import frozen_dtype, shape, shardings, variables
from jaxft.optim.base import lr_multipliers, optimizer
from jaxft.parallel.memory import device_memory, held, split_over
from jaxft.parallel.mesh import make_mesh

log = logging.getLogger("jaxft")


def mesh_for(cfg: Config, model: Model, trained: list[str], devices: list[jax.Device]) -> jax.sharding.Mesh:
    """The mesh of a run, as config.mesh says; if that leaves `fsdp` open, replicas if they fit, else full sharding."""
    if not cfg.mesh.open:
        return make_mesh(cfg.mesh.sizes(len(devices)), devices)

    def floor(fsdp: int) -> int:
        return floor_bytes(cfg, model, trained, make_mesh(cfg.mesh.sizes(len(devices), fsdp), devices))

    most = len(devices) // cfg.mesh.tensor
    fsdp, reason = split_over(floor, most, device_memory(devices))
    log.info("mesh: weights, gradients and optimizer are %s", reason)
    return make_mesh(cfg.mesh.sizes(len(devices), fsdp), devices)


def floor_bytes(cfg: Config, model: Model, trained: list[str], mesh: jax.sharding.Mesh) -> int:
    """Bytes per device that a step needs whatever its batch: parameters, their gradients, the optimizer's state."""
    places = shardings(model, mesh)
    found = variables(model)
    trains = {path: jax.ShapeDtypeStruct(shape(found[path]), jnp.float32) for path in trained}
    multipliers = lr_multipliers(model, cfg.lr_multipliers, cfg.layer_decay)
    tx = optimizer(cfg.optim, optax.constant_schedule(cfg.lr), model, trained, multipliers)
    replicated = NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.eval_shape(tx.init, trains)
    of_state = opt_placements(state, {path: places[path] for path in trained}, trains, replicated)
    frozen = sum(
        held(shape(v), frozen_dtype(v, model.dtype), places[path]) for path, v in found.items() if path not in trains
    )
    trained_bytes = sum(held(x.shape, x.dtype, places[path]) for path, x in trains.items())
    of_optimizer = jax.tree.map(lambda x, place: held(x.shape, x.dtype, place), state, of_state)
    return frozen + 2 * trained_bytes + sum(jax.tree.leaves(of_optimizer))


def opt_placements(
    state: Any,
    params: Mapping[str, NamedSharding],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    replicated: NamedSharding,
) -> Any:
    """The placement of each array of an optimizer's state (the same pytree): that of the parameter whose path and shape
    it has, else replicated."""

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for key in path:
            if not isinstance(key, jax.tree_util.DictKey) or key.key not in params:
                continue
            if shapes[key.key].shape == leaf.shape:
                return params[key.key]
        return replicated

    return jax.tree_util.tree_map_with_path(one, state)
