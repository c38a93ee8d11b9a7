"""The small modules that every family is made of: linear maps, norms, activations, embeddings, MLPs.

Modules are built abstract: a parameter is a shape, the logical names of its axes and how to initialise it. Values are
put in later, from a checkpoint or from `initial` (models/params.py). Letters in names: b batch, t length, d width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.dropout import dropout
from jaxft.parallel.mesh import shard
from jaxft.problems import raise_problems


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution's share below x (Hendrycks and Gimpel 2016, section 2), in float32.

    By erf, as in PyTorch; `jax.nn.gelu` goes by erfc, which is exact far below 0 but costs three times as much on CPU.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "gelu_fast": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def known_activation(name: str) -> str:
    """The name itself; raises UserError for one that ACTIVATIONS lacks."""
    if name not in ACTIVATIONS:
        raise_problems([f"config.json: the activation {name!r} is not supported, only {', '.join(ACTIVATIONS)}"])
    return name


def param(shape: tuple[int, ...], axes: tuple[str | None, ...], init: str = "normal") -> nnx.Param:
    """An abstract float32 parameter; `axes` are logical names (parallel/mesh.py), `init` is normal, zeros or ones."""
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32), axes=axes, init=init)


def recomputed(function):
    """The function, of which the backward pass keeps the arguments only: cheap steps are done again, not stored.

    Their products are not done again, since no gradient needs a product's own result.
    """
    return jax.checkpoint(function, prevent_cse=False)  # the loop over layers stands between the two passes


def read(x_btd: jax.Array, at_bk: jax.Array | None) -> jax.Array:
    """What stands at the positions `at`: (batch, slots, width); everything where `at` is None."""
    return x_btd if at_bk is None else jnp.take_along_axis(x_btd, at_bk[..., None], axis=1)


def subkey(key: jax.Array | None, number: int) -> jax.Array | None:
    """The `number`-th key under `key`; None stays None."""
    return None if key is None else jax.random.fold_in(key, number)


class Linear(nnx.Module):
    """y = x W + b, with W cast to the dtype of x: parameters may be fp32 masters while activations are bf16."""

    def __init__(self, inputs: int, outputs: int, axes: tuple[str | None, str | None], bias: bool = True):
        self.kernel = param((inputs, outputs), axes)
        self.bias = param((outputs,), (axes[1],), "zeros") if bias else nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation (Ba et al. 2016, eq. 4), computed in float32."""

    eps: float

    def build(self, width):
        return NormLayer(self, width, bias=True)

    def normalise(self, x):
        centred = x - jnp.mean(x, -1, keepdims=True)
        return centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + self.eps)


@dataclass(frozen=True)
class RMSNorm:
    """Root mean square normalisation (Zhang and Sennrich 2019, eq. 4), computed in float32."""

    eps: float

    def build(self, width):
        return NormLayer(self, width, bias=False)

    def normalise(self, x):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps)


class NormLayer(nnx.Module):
    """A norm with its learned scale (and bias), in float32 whatever comes in; the result has the input's dtype."""

    def __init__(self, norm: LayerNorm | RMSNorm, width: int, bias: bool):
        self.norm = norm
        self.scale = param((width,), (None,), "ones")
        self.bias = param((width,), (None,), "zeros") if bias else nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        def normed(x):
            y = self.norm.normalise(x.astype(jnp.float32)) * self.scale[...].astype(jnp.float32)
            if self.bias is not None:
                y = y + self.bias[...].astype(jnp.float32)
            return y.astype(x.dtype)

        return recomputed(normed)(x)


@dataclass(frozen=True)
class Dense:
    """The two-matrix MLP: down(act(up(x)))."""

    hidden: int
    act: str
    bias: bool = True

    def build(self, width):
        return DenseLayer(self, width)


class DenseLayer(nnx.Module):
    def __init__(self, part: Dense, width: int):
        self.act = known_activation(part.act)
        self.up = Linear(width, part.hidden, ("embed", "mlp"), part.bias)
        self.down = Linear(part.hidden, width, ("mlp", "embed"), part.bias)

    def __call__(self, x_btd):
        def rest(up):
            return self.down(shard(ACTIVATIONS[self.act](up), "batch", None, "mlp"))

        return recomputed(rest)(self.up(x_btd))


@dataclass(frozen=True)
class Gated:
    """The gated MLP (Shazeer 2020, "GLU variants", section 2): down(act(gate(x)) * up(x))."""

    hidden: int
    act: str
    bias: bool = False

    def build(self, width):
        return GatedLayer(self, width)


class GatedLayer(nnx.Module):
    def __init__(self, part: Gated, width: int):
        self.act = known_activation(part.act)
        self.gate = Linear(width, part.hidden, ("embed", "mlp"), part.bias)
        self.up = Linear(width, part.hidden, ("embed", "mlp"), part.bias)
        self.down = Linear(part.hidden, width, ("mlp", "embed"), part.bias)

    def __call__(self, x_btd):
        def rest(gate, up):
            return self.down(shard(ACTIVATIONS[self.act](gate) * up, "batch", None, "mlp"))

        return recomputed(rest)(self.gate(x_btd), self.up(x_btd))


class Table(nnx.Module):
    """An embedding table: rows by number."""

    def __init__(self, rows: int, width: int, axes: tuple[str | None, str | None]):
        self.axes = axes
        self.embedding = param((rows, width), axes)

    def __call__(self, numbers: jax.Array, dtype) -> jax.Array:
        # Gather the width first: a lookup in a table split both ways makes the compiler replicate its result.
        return shard(self.embedding[...].astype(dtype), self.axes[0], None)[numbers]


@dataclass(frozen=True)
class Embed:
    """Tokens, and where the family has them learned positions and text types, to vectors."""

    vocab: int
    positions: int | None = None  # rows of a learned table
    types: int | None = None
    norm: LayerNorm | RMSNorm | None = None
    dropout: float = 0.0

    def build(self, width):
        return EmbedLayer(self, width)


class EmbedLayer(nnx.Module):
    def __init__(self, part: Embed, width: int):
        self.rate = part.dropout
        self.tokens = Table(part.vocab, width, ("vocab", "embed"))
        self.positions = Table(part.positions, width, (None, "embed")) if part.positions else nnx.data(None)
        self.types = Table(part.types, width, (None, "embed")) if part.types else nnx.data(None)
        self.norm = part.norm.build(width) if part.norm else nnx.data(None)

    def __call__(self, batch: dict, dtype, key: jax.Array | None) -> jax.Array:
        x = self.tokens(batch["tokens"], dtype)
        if self.types is not None:
            x = x + self.types(batch.get("types", jnp.zeros_like(batch["tokens"])), dtype)
        if self.positions is not None:
            x = x + self.positions(batch["positions"], dtype)
        if self.norm is not None:
            x = self.norm(x)
        return shard(dropout(x, self.rate, key), "batch", None, None)


@dataclass(frozen=True)
class LinearScaling:
    """Rotary positions divided by a factor (Chen et al. 2023, position interpolation)."""

    factor: float

    def __call__(self, frequencies):
        return frequencies / self.factor


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021, eq. 34), in the half-split layout: dimension i turns with i + dim/2."""

    dim: int
    theta: float
    scaling: Callable[[jax.Array], jax.Array] | None = None  # frozen, hashable: stretches the frequencies

    def table(self, positions_bt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cosine and sine, float32 (batch, length, 1, dim/2)."""
        frequencies = 1.0 / self.theta ** (jnp.arange(0, self.dim, 2, dtype=jnp.float32) / self.dim)
        if self.scaling is not None:
            frequencies = self.scaling(frequencies)
        angles = positions_bt[:, :, None, None].astype(jnp.float32) * frequencies
        return jnp.cos(angles), jnp.sin(angles)


def rotate(x_bthd: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn each head's halves by the angles of `table`, in float32; the result has the input's dtype."""
    cos, sin = table
    a, b = jnp.split(x_bthd.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_bthd.dtype)
