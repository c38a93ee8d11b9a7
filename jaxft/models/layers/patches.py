"""Images and audio as sequences of vectors, in place of token embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxft.models.batch import Batch
from jaxft.models.layers.activations import ACTIVATIONS, known_activation
from jaxft.models.layers.basic import Embedding, Linear, param
from jaxft.models.layers.dropout import dropout
from jaxft.models.part import Part
from jaxft.parallel.mesh import shard


@dataclass(frozen=True)
class Patches:
    """An image: a linear map of each patch's pixels, and learned positions (Dosovitskiy et al. 2021, eq. 1).

    A learned class token comes first.
    """

    height: int  # of an image, in pixels
    width: int
    patch: tuple[int, int]  # height and width
    channels: int
    bias: bool = True
    dropout: float = 0.0
    norm: Part | None = None  # on the sum
    vocab: ClassVar[int] = 0
    types: ClassVar[None] = None
    shared_embedding: ClassVar[bool] = False
    key: ClassVar[str] = "pixels"
    argument: ClassVar[str] = "pixel_values"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height, width."""
        return self.channels, self.height, self.width

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches, vertically and horizontally."""
        return self.height // self.patch[0], self.width // self.patch[1]

    @property
    def length(self) -> int:
        """Vectors per image: the class token and the patches."""
        return 1 + self.grid[0] * self.grid[1]

    def build(self, width: int) -> "PatchesLayer":
        return PatchesLayer(self, width)


class PatchesLayer(nnx.Module):
    def __init__(self, part: Patches, width: int):
        self.part, self.tokens = part, nnx.data(None)
        pixels = part.channels * part.patch[0] * part.patch[1]
        self.patches = Linear(pixels, width, (None, "embed"), part.bias)
        self.whole = param((width,), ("embed",), "other")
        self.positions = param((part.length, width), (None, "embed"), "other")
        self.norm = part.norm.build(width) if part.norm else nnx.data(None)

    def __call__(self, batch: Batch, dtype: DTypeLike, key: jax.Array | None, table: None = None) -> jax.Array:
        """From `pixels` (batch, channels, height, width) to (batch, length, width)."""
        part, pixels = self.part, batch["pixels"].astype(dtype)
        (rows, columns), (high, wide) = part.grid, part.patch
        pixels = pixels[..., : rows * high, : columns * wide]  # pixels beyond the last whole patch are cut off
        cut = pixels.reshape(-1, part.channels, rows, high, columns, wide).transpose(0, 2, 4, 1, 3, 5)
        patches = self.patches(cut.reshape(len(pixels), rows * columns, -1))
        whole = jnp.broadcast_to(self.whole[...].astype(dtype), (len(pixels), 1, patches.shape[-1]))
        x = jnp.concatenate([whole, patches], 1) + self.positions[...].astype(dtype)
        if self.norm is not None:
            x = self.norm(x)
        return shard(dropout(x, part.dropout, key), "batch", "length", None)


@dataclass(frozen=True)
class AudioFrames:
    """Audio: two convolutions over a mel spectrogram, the second with stride 2, and fixed positions.

    Radford et al. 2023, section 2.2.
    """

    bands: int  # mel bands
    length: int  # vectors per recording; each covers two frames of the spectrogram
    act: str
    fill: Callable  # shape -> the table of positions
    dropout: float = 0.0
    vocab: ClassVar[int] = 0
    types: ClassVar[None] = None
    shared_embedding: ClassVar[bool] = False
    key: ClassVar[str] = "features"
    argument: ClassVar[str] = "input_features"

    @property
    def shape(self) -> tuple[int, int]:
        """Of one recording: mel bands, frames."""
        return self.bands, 2 * self.length

    def build(self, width: int) -> "AudioFramesLayer":
        return AudioFramesLayer(self, width)


class AudioFramesLayer(nnx.Module):
    def __init__(self, part: AudioFrames, width: int):
        self.part, self.act, self.tokens = part, ACTIVATIONS[known_activation(part.act)], nnx.data(None)
        self.first, self.second = Convolution(part.bands, width, 1), Convolution(width, width, 2)
        self.positions = Embedding(part.length, width, (None, "embed"), init=part.fill, fixed=True)

    def __call__(self, batch: Batch, dtype: DTypeLike, key: jax.Array | None, table: None = None) -> jax.Array:
        """From `features` (batch, bands, 2 length) to (batch, length, width)."""
        x = batch["features"].astype(dtype).swapaxes(1, 2)
        x = self.act(self.second(self.act(self.first(x))))
        x = x + self.positions.embedding[...].astype(dtype)
        return shard(dropout(x, self.part.dropout, key), "batch", "length", None)


class Convolution(nnx.Module):
    """A convolution of width 3 with padding 1."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        self.stride = stride
        self.kernel = param((3, inputs, outputs), (None, None, "embed"), "kernel")
        self.bias = param((outputs,), ("embed",), "bias", "zeros")

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(x_btd.dtype)
        axes = ("NHC", "HIO", "NHC")
        y = jax.lax.conv_general_dilated(x_btd, kernel, (self.stride,), ((1, 1),), dimension_numbers=axes)
        return y + self.bias[...].astype(x_btd.dtype)
