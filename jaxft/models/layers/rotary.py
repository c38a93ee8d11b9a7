"""Rotary position embeddings (Su et al. 2021): queries and keys are rotated by angles proportional to the position."""

import math
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.layers.precision import upcast
from jaxft.problems import raise_problems, truncated_repr


class Scaling(Protocol):
    """How frequencies change for texts longer than in training. A frozen, hashable dataclass."""

    @property
    def amplitude(self) -> float:
        """Factor of cosine and sine."""

    def __call__(self, frequencies: jax.Array, rotary: "Rotary", length: jax.Array) -> jax.Array:
        """New frequencies, (dim/2,); `length` is that of the batch's longest text."""


@dataclass(frozen=True)
class Rotary:
    """The first `dim` components of a head rotate by position * theta^(-2i/dim) (Su et al. 2021, eq. 34).

    `pairs` says which rotate together: "halves" i and i + dim/2, "neighbours" 2i and 2i + 1.
    """

    dim: int
    theta: float
    scaling: Scaling | None = None
    pairs: str = "halves"

    def table(self, positions_bt: jax.Array, longest: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cosine and sine, float32 (batch, t, 1, dim/2); `longest` is the length of the batch's longest text."""
        frequencies = 1.0 / self.theta ** (jnp.arange(0, self.dim, 2, dtype=float) / self.dim)
        amplitude = 1.0
        if self.scaling is not None:
            frequencies = self.scaling(frequencies, self, longest)
            amplitude = self.scaling.amplitude
        angles = positions_bt[:, :, None, None].astype(float) * frequencies
        return amplitude * jnp.cos(angles), amplitude * jnp.sin(angles)


def rotate(x_bthd: jax.Array, table: tuple[jax.Array, jax.Array], rotary: Rotary) -> jax.Array:
    """Rotate the pairs of each head by the angles of `table`, in float32; the result has the input's dtype."""
    cos, sin = table
    x, rest = upcast(x_bthd[..., : rotary.dim]), x_bthd[..., rotary.dim :]
    a, b = jnp.split(x, 2, -1) if rotary.pairs == "halves" else (x[..., ::2], x[..., 1::2])
    rotated = a * cos - b * sin, b * cos + a * sin
    x = jnp.concatenate(rotated, -1) if rotary.pairs == "halves" else jnp.stack(rotated, -1).reshape(x.shape)
    return jnp.concatenate([x.astype(x_bthd.dtype), rest], -1)


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor (Chen et al. 2023, section 2.3)."""

    factor: float
    amplitude: float = 1.0

    def __call__(self, frequencies: jax.Array, rotary: Rotary, length: jax.Array) -> jax.Array:
        return frequencies / self.factor


@dataclass(frozen=True)
class DynamicNTK:
    """A base that grows with the text's length beyond the training length (bloc97 2023, NTK-aware scaling)."""

    factor: float
    positions: int  # in training
    amplitude: float = 1.0

    def __call__(self, frequencies: jax.Array, rotary: Rotary, length: jax.Array) -> jax.Array:
        stretch = self.factor * jnp.maximum(length, self.positions) / self.positions - (self.factor - 1)
        base = rotary.theta * stretch ** (rotary.dim / (rotary.dim - 2))
        return 1.0 / base ** (jnp.arange(0, rotary.dim, 2, dtype=float) / rotary.dim)


@dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies divided by a factor, high ones kept, smooth between (Dubey et al. 2024: Llama 3.1)."""

    factor: float
    low: float  # frequencies with fewer rotations than this within the training positions are low
    high: float
    positions: int
    amplitude: float = 1.0

    def __call__(self, frequencies: jax.Array, rotary: Rotary, length: jax.Array) -> jax.Array:
        turns = self.positions * frequencies / (2 * math.pi)
        smooth = jnp.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return (1 - smooth) * frequencies / self.factor + smooth * frequencies


@dataclass(frozen=True)
class Yarn:
    """Low dimensions kept, high ones divided by a factor, linear between (Peng et al. 2023, section 3.2)."""

    factor: float
    fast: float  # dimensions with more rotations than this within the training positions are kept
    slow: float
    positions: int
    truncate: bool  # round the two bounds to whole dimensions
    amplitude: float

    def __call__(self, frequencies: jax.Array, rotary: Rotary, length: jax.Array) -> jax.Array:
        low, high = (self._dimension(turns, rotary) for turns in (self.fast, self.slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rotary.dim - 1)
        high += 0.001 if low == high else 0
        divided = jnp.clip((jnp.arange(rotary.dim // 2, dtype=float) - low) / (high - low), 0.0, 1.0)
        return frequencies / self.factor * divided + frequencies * (1 - divided)

    def _dimension(self, turns: float, rotary: Rotary) -> float:
        """The (fractional) number of the pair that makes `turns` rotations within the training positions."""
        return rotary.dim * math.log(self.positions / (turns * 2 * math.pi)) / (2 * math.log(rotary.theta))


@dataclass(frozen=True)
class LongRope:
    """A factor per frequency: one list up to the training length, another beyond it (Ding et al. 2024)."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    positions: int
    amplitude: float

    def __call__(self, frequencies: jax.Array, rotary: Rotary, length: jax.Array) -> jax.Array:
        return frequencies / jnp.where(length > self.positions, jnp.array(self.long), jnp.array(self.short))


# Settings of `rope_parameters`, with values of the kind that they must have.
KINDS = {
    "rope_type": "default",
    "type": "default",  # the former name of rope_type
    "finetuned": True,
    "rope_theta": 1e4,
    "partial_rotary_factor": 1.0,
    "factor": 1.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "attention_factor": 1.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "truncate": True,
    "short_factor": [],
    "long_factor": [],
}


def read_rotary(
    c: ConfigReader, head_dim: int, layers: str | None = None, pairs: str = "halves", partial: bool = False
) -> Rotary:
    """The part that `rope_parameters` of config.json describe (transformers 5); `layers` is the type of layers, for
    families with several.

    With `partial`, the family can rotate a part of each head; without, `partial_rotary_factor` must be 1. Raises
    UserError for an unknown type or setting.
    """
    rope = c.section("rope_parameters", KINDS)
    if layers is not None and layers in rope:
        rope = rope.section(layers, KINDS)
    unknown = sorted(name for name in rope if name not in KINDS)
    raise_problems(
        [f"config.json: rope_parameters has {truncated_repr(name)}, which jaxft does not read" for name in unknown]
    )
    kind = rope.get("rope_type", "default")
    if kind not in SCALINGS:
        raise_problems([f"config.json: rope_type={truncated_repr(kind)} is not supported, only {', '.join(SCALINGS)}"])
    if not partial:
        rope.expect("partial_rotary_factor", 1.0, "this family rotates whole heads")
    dim = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    return Rotary(dim, float(rope.rope_theta), SCALINGS[kind](c, rope, dim), pairs)


def _yarn(c, rope, dim):
    positions = rope.get("original_max_position_embeddings", c.max_position_embeddings)
    factor = rope.get("factor", c.max_position_embeddings / positions)
    scales = rope.get("mscale"), rope.get("mscale_all_dim")
    usual = _magnitude(factor, scales[0]) / _magnitude(factor, scales[1]) if all(scales) else _magnitude(factor, 1.0)
    fast, slow = rope.get("beta_fast", 32.0), rope.get("beta_slow", 1.0)
    return Yarn(factor, fast, slow, positions, rope.get("truncate", True), rope.get("attention_factor", usual))


def _magnitude(factor: float, scale: float) -> float:
    """The temperature of attention (Peng et al. 2023, eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _long_rope(c, rope, dim):
    positions = rope.get("original_max_position_embeddings", c.get("original_max_position_embeddings"))
    factor = rope.get("factor", c.max_position_embeddings / positions)
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(positions))
    lists = tuple(rope.short_factor), tuple(rope.long_factor)
    raise_problems(
        f"config.json: {name} of rope_parameters has {len(values)} numbers, expected {dim // 2}"
        for name, values in zip(("short_factor", "long_factor"), lists, strict=True)
        if len(values) != dim // 2
    )
    return LongRope(*lists, positions, rope.get("attention_factor", usual))


SCALINGS = {
    "default": lambda c, rope, dim: None,
    "linear": lambda c, rope, dim: LinearScaling(rope.factor),
    "dynamic": lambda c, rope, dim: DynamicNTK(rope.factor, c.max_position_embeddings),
    "llama3": lambda c, rope, dim: Llama3Scaling(
        rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.original_max_position_embeddings
    ),
    "yarn": _yarn,
    "longrope": _long_rope,
}
