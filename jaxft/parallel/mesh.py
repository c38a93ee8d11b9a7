"""The device mesh, and the translation of arrays' logical axis names into placements on it.

Mesh axes: `data` (replicas), `fsdp` (splits the batch and the weights), `tensor` (splits heads, MLP, vocabulary).
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AnyMesh = Mesh | AbstractMesh
AXES = ("data", "fsdp", "tensor")

# Logical name -> mesh axes; () is replicated, and so is a dimension without a name.
RULES = {
    "batch": ("data", "fsdp"),
    "replica": "data",  # rows of a batch that are the same on all devices that share the weights
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "mlp": "tensor",
    "length": (),  # of queries, and of whatever is computed token by token
    "key_length": (),  # of keys and values
    "experts": (),
    "layers": (),  # of stacked parameters
}


def make_mesh(sizes: dict[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all), with the axes of AXES in that order.

    The axes are Auto: the compiler propagates placements. (`jax.make_mesh` would make Explicit ones, under which an
    embedding lookup raises a ShardingTypeError.)
    """
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def split(name: str | None, size: int, mesh: AnyMesh) -> tuple[str, ...]:
    """The mesh axes, with more than one device, that split a dimension with the logical `name`; () for none.

    A dimension that they do not divide is replicated: padding it would change the shapes of exported weights.
    """
    axes = tuple(axis for axis in (() if name is None else _tuple(RULES[name])) if mesh.shape[axis] > 1)
    return axes if size % _size(axes, mesh) == 0 else ()


def placement(names: tuple[str | None, ...], shape: tuple[int, ...], mesh: AnyMesh) -> PartitionSpec:
    """The placement of an array whose dimensions have the logical `names`."""
    return PartitionSpec(*(split(name, size, mesh) or None for name, size in zip(names, shape, strict=True)))


def sharding(names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """`placement` on a concrete mesh."""
    return NamedSharding(mesh, placement(names, shape, mesh))


def shard(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrain the placement of an activation inside jit; without a mesh (`jax.set_mesh`) this does nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, placement(names, x.shape, mesh))


def shards_per_dim(names: tuple[str | None, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Into how many shards each dimension of such an activation is split; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return (1,) * len(shape)
    return tuple(_size(axes, mesh) for axes in placement(names, shape, mesh))


def platform() -> str:
    """The platform of the devices of the current mesh: "cpu", "gpu" or "tpu"; without a mesh, the default backend.

    The two differ when a program is compiled ahead of time for devices that are not here.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def data_shards(mesh: AnyMesh) -> int:
    """The number of shards of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def own_shards(mesh: Mesh) -> tuple[int, ...]:
    """The numbers of the batch's shards that this process's devices hold.

    Processes along a `tensor` axis hold the same ones, and a process's shards need not be contiguous.
    """
    count = data_shards(mesh)
    places = sharding(("batch",), (count,), mesh).addressable_devices_indices_map((count,))
    return tuple(sorted({index[0].start or 0 for index in places.values() if index is not None}))


def place_rows(values: np.ndarray, mesh: Mesh) -> jax.Array:
    """A batch's array on the devices; `values` holds the rows of `own_shards`, in order."""
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
