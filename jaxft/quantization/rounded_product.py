"""A product that is rounded before something is added to it, as PyTorch's single operations are."""

import jax
import jax.numpy as jnp


def rounded_product(a: jax.Array | float, b: jax.Array | float) -> jax.Array:
    """a * b in float32, which no compiler makes one operation, with one rounding, together with a sum that follows: a
    limit, which no finite number reaches, stands between them. (XLA removes `optimization_barrier` before.)"""
    return jnp.minimum(jnp.multiply(a, b), jnp.finfo(jnp.float32).max)
