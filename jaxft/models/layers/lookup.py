"""Lookup of an embedding table's rows.

Letters: v rows of a table, d width.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from jaxft.parallel.mesh import placement


def lookup(table_vd: jax.Array, numbers: jax.Array, axes: tuple[str | None, str | None], dtype: DTypeLike) -> jax.Array:
    """`table[numbers]` in `dtype`, (*numbers.shape, d); `axes` are the logical names of the table's dimensions.

    The cast follows the lookup, so that gradients of equal numbers are summed in float32: in bfloat16 a sum of ones
    ends at 256. On a mesh that splits the width, the result is split in the same way and holds the rows of all devices
    that share the width: the looked-up rows are moved when the caller puts each device's own rows together, the table
    never is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return table_vd[numbers].astype(dtype)
    of_rows, of_width = placement(axes, table_vd.shape, mesh)
    (of_batch,) = placement(("batch" if of_width is None else "replica",), numbers.shape[:1], mesh)
    batch = [of_batch] + [None] * (numbers.ndim - 1)

    def local(table, numbers):
        if of_rows is None:
            return table[numbers].astype(dtype)
        numbers -= jax.lax.axis_index(of_rows) * len(table)
        here = (numbers >= 0) & (numbers < len(table))
        found = table[jnp.where(here, numbers, 0)].astype(dtype)
        return jax.lax.psum(jnp.where(here[..., None], found, 0), of_rows)  # one device has the row, the others zeros

    specs = (PartitionSpec(of_rows, of_width), PartitionSpec(*batch))
    return jax.shard_map(local, in_specs=specs, out_specs=PartitionSpec(*batch, of_width))(table_vd, numbers)
