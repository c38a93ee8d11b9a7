"""Build the device mesh, and translate the logical axis names of arrays into placements on it.

Mesh axes: `data` (replicas), `fsdp` (replicas that also split the weights), `tensor` (splits heads, MLP, vocabulary).
"""

import math

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# Logical name -> mesh axes; () is replicated, and so is a dimension without a name.
RULES = {
    "batch": ("data", "fsdp"),
    "replica": "data",  # a batch of which all devices that share the weights hold the same rows
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "mlp": "tensor",
    "length": (),  # of queries, and of whatever is computed token by token
    "key_length": (),  # of keys and values
    "experts": (),
    "layers": (),  # of stacked parameters
}


def make_mesh(sizes: dict[str, int], devices=None) -> jax.sharding.Mesh:
    """A mesh over `devices` (default: all), with the axes of AXES in that order.

    The axes are Auto: the compiler propagates placements. (`jax.make_mesh` would make Explicit ones, under which an
    embedding lookup raises a ShardingTypeError.)
    """
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def split(name: str | None, size: int, mesh) -> tuple[str, ...]:
    """The mesh axes, of more than one device, that split a dimension of the logical `name`; () for none.

    A dimension that they do not divide is replicated: rounding it up instead would change exported shapes.
    """
    axes = tuple(axis for axis in (() if name is None else _tuple(RULES[name])) if mesh.shape[axis] > 1)
    return axes if size % _size(axes, mesh) == 0 else ()


def placement(names: tuple[str | None, ...], shape: tuple[int, ...], mesh) -> PartitionSpec:
    """Mesh axes for an array whose dimensions carry the logical `names`."""
    return PartitionSpec(*(split(name, size, mesh) or None for name, size in zip(names, shape, strict=True)))


def sharding(names: tuple[str | None, ...], shape: tuple[int, ...], mesh) -> NamedSharding:
    """`placement` bound to a concrete mesh."""
    return NamedSharding(mesh, placement(names, shape, mesh))


def shard(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrain an activation inside a jitted function; does nothing where no mesh is set (`jax.set_mesh`)."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, placement(names, x.shape, mesh))


def shares(names: tuple[str | None, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Over how many devices each dimension of such an activation is spread; 1 where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return (1,) * len(shape)
    return tuple(_size(axes, mesh) for axes in placement(names, shape, mesh))


def platform() -> str:
    """That of the devices which the mesh in use has, "cpu", "gpu" or "tpu"; without a mesh that of JAX's own choice.

    Not always JAX's own choice: a program can be compiled for devices that are elsewhere.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def data_shards(mesh) -> int:
    """In how many pieces a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def own_shards(mesh) -> tuple[int, ...]:
    """Which of the pieces of a batch this process's devices hold. Processes may hold the same ones, those that share a
    `tensor` axis, and not always neighbouring ones."""
    count = data_shards(mesh)
    places = sharding(("batch",), (count,), mesh).addressable_devices_indices_map((count,))
    return tuple(sorted({index[0].start or 0 for index in places.values()}))


def place_rows(values: np.ndarray, mesh) -> jax.Array:
    """A batch's array on the devices, of which `values` holds the rows of `own_shards`, piece after piece."""
    count, own = data_shards(mesh), own_shards(mesh)
    placed = sharding(("batch",), (count,), mesh)
    if jax.process_count() == 1:
        return jax.device_put(values, placed)
    rows = len(values) // len(own)

    def piece(index):
        begin = own.index((index[0].start or 0) // rows) * rows
        return values[begin : begin + rows]

    return jax.make_array_from_callback((count * rows, *values.shape[1:]), placed, piece)


def _size(axes, mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in _tuple(axes))


def _tuple(axes) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else axes or ()
