"""The number format of sums, norms and angles: float32 where values are float32 or narrower, float64 in float64."""

import jax
import jax.numpy as jnp


def accumulator(x: jax.Array) -> jnp.dtype:
    """float32, or float64 for a float64 array, which only `jaxft.parity` computes with."""
    return jnp.promote_types(x.dtype, jnp.float32)


def upcast(x: jax.Array) -> jax.Array:
    """`x` in the format of its accumulator."""
    return x.astype(accumulator(x))
