"""Activation functions by their names in config.json."""

import math

import jax
import jax.numpy as jnp

from jaxft.models.layers.precision import upcast
from jaxft.problems import raise_problems, truncated_repr


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function at x (Hendrycks and Gimpel 2016, section 2), computed in float32.

    With erf, as in PyTorch; `jax.nn.gelu` has erfc, which is exact far below 0 and three times as slow on CPU.
    """
    wide = upcast(x)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "gelu_fast": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "tanh": jnp.tanh,
}


def known_activation(name: str) -> str:
    """The name itself; raises UserError for one that ACTIVATIONS lacks."""
    if name not in ACTIVATIONS:
        raise_problems(
            [f"config.json: the activation {truncated_repr(name)} is not supported, only {', '.join(ACTIVATIONS)}"]
        )
    return name
