"""Images and sounds as rows of vectors, in the place of embedded tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.layers.activations import ACTIVATIONS, known_activation
from jaxft.models.layers.basic import Embedding, Linear, param
from jaxft.models.layers.dropout import dropout
from jaxft.models.part import Part
from jaxft.parallel.mesh import shard


@dataclass(frozen=True)
class Patches:
    """An image: a linear map of each patch's pixels, and a learned position (Dosovitskiy et al. 2021, eq. 1).

    One more vector, at the front, stands for the whole image.
    """

    height: int  # of an image, in pixels
    width: int
    patch: tuple[int, int]  # height and width
    channels: int
    bias: bool = True
    dropout: float = 0.0
    norm: Part | None = None  # of the sum
    vocab: int = 0  # there are no tokens
    types: None = None
    shared_embedding: bool = False
    key: str = "pixels"  # of the batch
    argument: str = "pixel_values"  # of transformers' models

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: channels, height, width."""
        return self.channels, self.height, self.width

    @property
    def grid(self) -> tuple[int, int]:
        """How many patches there are, from top to bottom and from left to right."""
        return self.height // self.patch[0], self.width // self.patch[1]

    @property
    def length(self) -> int:
        """Vectors of an image."""
        return 1 + self.grid[0] * self.grid[1]

    def build(self, width):
        return PatchesLayer(self, width)


class PatchesLayer(nnx.Module):
    def __init__(self, part: Patches, width: int):
        self.part, self.tokens = part, nnx.data(None)
        pixels = part.channels * part.patch[0] * part.patch[1]
        self.patches = Linear(pixels, width, (None, "embed"), part.bias)
        self.whole = param((width,), ("embed",), "other")
        self.positions = param((part.length, width), (None, "embed"), "other")
        self.norm = part.norm.build(width) if part.norm else nnx.data(None)

    def __call__(self, batch: dict, dtype, key: jax.Array | None, tokens=None) -> jax.Array:
        """From `pixels` (batch, channels, height, width) to (batch, length, width)."""
        part, pixels = self.part, batch["pixels"].astype(dtype)
        (rows, columns), (high, wide) = part.grid, part.patch
        pixels = pixels[..., : rows * high, : columns * wide]  # what no patch holds is left out
        cut = pixels.reshape(-1, part.channels, rows, high, columns, wide).transpose(0, 2, 4, 1, 3, 5)
        patches = self.patches(cut.reshape(len(pixels), rows * columns, -1))
        whole = jnp.broadcast_to(self.whole[...].astype(dtype), (len(pixels), 1, patches.shape[-1]))
        x = jnp.concatenate([whole, patches], 1) + self.positions[...].astype(dtype)
        if self.norm is not None:
            x = self.norm(x)
        return shard(dropout(x, part.dropout, key), "batch", None, None)


@dataclass(frozen=True)
class AudioFrames:
    """A sound: two convolutions over its spectrum, the second of which halves the rate, and fixed positions.

    Radford et al. 2023, section 2.2.
    """

    bands: int  # of the spectrum
    length: int  # vectors of a sound; there are two spectra for each
    act: str
    fill: Callable  # shape -> the table of positions
    dropout: float = 0.0
    vocab: int = 0
    types: None = None
    shared_embedding: bool = False
    key: str = "features"
    argument: str = "input_features"

    @property
    def shape(self) -> tuple[int, int]:
        """Of a sound: bands, spectra."""
        return self.bands, 2 * self.length

    def build(self, width):
        return AudioFramesLayer(self, width)


class AudioFramesLayer(nnx.Module):
    def __init__(self, part: AudioFrames, width: int):
        self.part, self.act, self.tokens = part, ACTIVATIONS[known_activation(part.act)], nnx.data(None)
        self.first, self.second = Convolution(part.bands, width, 1), Convolution(width, width, 2)
        self.positions = Embedding(part.length, width, (None, "embed"), init=part.fill, fixed=True)

    def __call__(self, batch: dict, dtype, key: jax.Array | None, tokens=None) -> jax.Array:
        """From `features` (batch, bands, 2 length) to (batch, length, width)."""
        x = batch["features"].astype(dtype).swapaxes(1, 2)
        x = self.act(self.second(self.act(self.first(x))))
        x = x + self.positions.embedding[...].astype(dtype)
        return shard(dropout(x, self.part.dropout, key), "batch", None, None)


class Convolution(nnx.Module):
    """Of three neighbours, at every `stride`-th place."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        self.stride = stride
        self.kernel = param((3, inputs, outputs), (None, None, "embed"), "kernel")
        self.bias = param((outputs,), ("embed",), "bias", "zeros")

    def __call__(self, x_btd):
        kernel = self.kernel[...].astype(x_btd.dtype)
        axes = ("NHC", "HIO", "NHC")
        y = jax.lax.conv_general_dilated(x_btd, kernel, (self.stride,), ((1, 1),), dimension_numbers=axes)
        return y + self.bias[...].astype(x_btd.dtype)
