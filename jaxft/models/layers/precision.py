"""The dtype of sums, norms and angles: float32 for values of float32 or less, float64 for float64."""

import jax
import jax.numpy as jnp


def accumulator(x: jax.Array) -> jnp.dtype:
    """float32; float64 for a float64 array (only `jaxft.parity` computes in float64)."""
    return jnp.promote_types(x.dtype, jnp.float32)


def upcast(x: jax.Array) -> jax.Array:
    """`x` in the dtype of its accumulator."""
    return x.astype(accumulator(x))
