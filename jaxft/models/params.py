"""The parameters of a model as one flat dict, path -> array, and the names that people use for them.

A stored path such as `layers.0.0.attn.q.kernel` (segment, place) holds several layers at once. Its names are
`layers.2.attn.q.kernel`, one a layer: patterns, weight tables and reports speak of names only.
"""

import zlib
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.model import Model
from jaxft.parallel.mesh import sharding

Params = dict[str, jax.Array]


def variables(model: Model) -> dict[str, nnx.Param]:
    """Path -> abstract parameter, in the model's own order."""
    flat, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return {jax.tree_util.keystr(path, simple=True, separator="."): variable for path, variable in flat}


def bind(model: Model, params: Params) -> Model:
    """The model with the values of `params` (path -> array) in it; pure, so usable under jit and grad."""
    return jax.tree.unflatten(jax.tree.structure(model), [params[path] for path in variables(model)])


def names(model: Model, path: str) -> list[str]:
    """The names behind a stored path: one for each row of a stacked array, itself for any other."""
    head, *rest = path.split(".")
    if head != "layers":
        return [path]
    _, segment, place, *rest = rest
    segment = model.layers.plan[int(segment)]
    return [f"layers.{segment.layer(row, int(place))}." + ".".join(rest) for row in range(segment.repeats)]


def all_names(model: Model) -> list[str]:
    """Every parameter name of the model."""
    return [name for path in variables(model) for name in names(model, path)]


def shape(variable: nnx.Param) -> tuple[int, ...]:
    return variable.get_value().shape


def shardings(model: Model, mesh) -> dict[str, jax.sharding.NamedSharding]:
    """Path -> placement of each parameter on the mesh."""
    return {
        path: sharding(variable.get_metadata("axes"), shape(variable), mesh)
        for path, variable in variables(model).items()
    }


def initial(model: Model, path: str, seed: int, placement=None, dtype=jnp.float32) -> jax.Array:
    """A newly initialised parameter; its values depend on (seed, name) only, not on stacking or mesh."""
    variable = variables(model)[path]
    stacked = variable.get_metadata("axes")[0] == "layers"
    keys = jnp.stack(
        [jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())) for name in names(model, path)]
    )
    make = partial(_values, variable.get_metadata("init"), model.spec.init_std, shape(variable), stacked, dtype)
    return jax.jit(make, out_shardings=placement)(keys)


def _values(init, std, shape, stacked, dtype, keys):
    if init == "normal":
        if stacked:
            draws = jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)
        else:
            draws = jax.random.normal(keys[0], shape)
        return (std * draws).astype(dtype)
    return jnp.full(shape, {"zeros": 0, "ones": 1}[init], dtype)
