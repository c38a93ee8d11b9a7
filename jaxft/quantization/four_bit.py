"""Matrices in codes of four bits, with a scale for each block: what NF4 and FP4 have in common.

The layout is that of bitsandbytes: the matrix (outputs, inputs), row after row, is cut into blocks, and a byte holds
two codes, the first in its upper half. Where blocks do not divide the rows, the arrays are flat and whole on each
device.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxft.models.checkpoint.quantized_tensors import FourBitTensor, QuantizedTensor
from jaxft.models.layers.basic import QuantizedKernel
from jaxft.quantization.base import quantized_param
from jaxft.quantization.dynamic_map import dynamic_map, quantize_blocks
from jaxft.quantization.rounded_product import rounded_product
from jaxft.quantization.torch_mean import torch_mean

BlockSize = Literal[32, 64, 128, 256, 512, 1024, 2048, 4096]  # those that bitsandbytes has
NESTED = 256  # scales that share a scale
CHUNK = 2**18  # numbers that are quantised at a time: they stay in the processor's cache
LEAST = np.float32(1e-38)  # of a scale by which numbers are divided


@dataclass(frozen=True)
class FourBit:
    """`values` are those of the 16 codes, from -1 to 1. With `double`, scales are held in eight bits as well (Dettmers
    et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3, "Double Quantization")."""

    values: tuple[float, ...]
    block: int
    double: bool

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "FourBitKernel":
        return FourBitKernel(self, inputs, outputs, axes)

    def quantize(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """See base.py. Equal to bitsandbytes' quantize_4bit on a CPU with one thread, to the last bit."""
        outputs, inputs = matrix.shape
        codes, scales = self._codes(np.ascontiguousarray(matrix).reshape(-1))
        rows = (outputs, -1) if inputs % self.block == 0 else (-1,)
        found = {"codes": codes.reshape(rows), "absmax": scales.reshape(rows)}
        if self.double:
            offset = torch_mean(scales)
            nested, nested_scales = quantize_blocks(scales - offset, NESTED)
            found |= {"absmax": nested.reshape(rows), "nested_absmax": nested_scales, "nested_offset": np.array(offset)}
        return found

    def stored(self, tensor: QuantizedTensor) -> dict[str, np.ndarray] | None:
        """See base.py."""
        if not isinstance(tensor, FourBitTensor) or tensor.block != self.block:
            return None
        is_nested = tensor.nested_values is not None and tensor.nested_absmax is not None
        if is_nested != self.double or not np.array_equal(tensor.values, np.array(self.values, np.float32)):
            return None
        rows = (tensor.shape[0], -1) if tensor.shape[1] % self.block == 0 else (-1,)
        found = {"codes": tensor.codes.reshape(rows), "absmax": tensor.absmax.reshape(rows)}
        if tensor.nested_values is None or tensor.nested_absmax is None:
            return found
        if not np.array_equal(tensor.nested_values, dynamic_map()):
            return None
        offset = np.array(tensor.nested_offset, np.float32)
        return found | {"nested_absmax": tensor.nested_absmax, "nested_offset": offset}

    def _codes(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(bytes of two codes, float32 scales of the blocks) of floats (n)."""
        whole = len(numbers) // self.block * self.block
        codes, scales = np.empty(len(numbers) + len(numbers) % 2, np.uint8), []
        for start in range(0, whole, CHUNK):
            rows = numbers[start : min(start + CHUNK, whole)].astype(np.float32).reshape(-1, self.block)
            absmax = np.abs(rows).max(1)
            scaled = rows * (np.float32(1) / np.maximum(absmax, LEAST))[:, None]
            codes[start : start + rows.size] = self._nearest(scaled.reshape(-1))
            scales.append(absmax)
        if whole < len(numbers):  # a last, shorter block, which bitsandbytes divides by its scale
            rest = numbers[whole:].astype(np.float32)
            absmax = np.maximum(np.abs(rest).max(), LEAST)
            codes[whole : len(numbers)] = self._nearest(rest / absmax)
            scales.append(absmax[None])
        if len(numbers) % 2:
            codes[-1:] = self._nearest(np.zeros(1, np.float32))
        return (codes[::2] << 4) | codes[1::2], np.concatenate(scales)

    def _nearest(self, numbers: np.ndarray) -> np.ndarray:
        """The codes whose values are nearest; midway between two, the code of the smaller."""
        values = np.array(self.values, np.float32)
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        places = np.zeros(len(numbers), np.uint8)
        for middle in (ordered[:-1] + ordered[1:]) / np.float32(2):
            places += numbers > middle
        return places if np.array_equal(order, np.arange(16)) else order.astype(np.uint8)[places]


class FourBitKernel(QuantizedKernel):
    """`codes` (outputs, inputs / 2) and `absmax` (outputs, inputs / block), or both flat.

    With double quantisation `absmax` are codes of eight bits, of the scales less their mean, `nested_offset` ();
    `nested_absmax` (ceil(scales / 256)) are the codes' scales.
    """

    def __init__(self, part: FourBit, inputs: int, outputs: int, axes: tuple[str | None, str | None]):
        self.part, self.shape, self.is_flat = part, (outputs, inputs), inputs % part.block != 0
        size = inputs * outputs
        count = -(-size // part.block)
        of_codes = ((size + 1) // 2,) if self.is_flat else (outputs, inputs // 2)
        of_scales = (count,) if self.is_flat else (outputs, inputs // part.block)
        places = (None,) if self.is_flat else (axes[1], axes[0])
        self.codes = quantized_param(of_codes, places, jnp.uint8)
        self.absmax = quantized_param(of_scales, places, jnp.uint8 if part.double else jnp.float32)
        self.nested_absmax: Any = nnx.data(None)
        self.nested_offset: Any = nnx.data(None)
        if part.double:
            self.nested_absmax = quantized_param((-(-count // NESTED),), (None,), jnp.float32)
            self.nested_offset = quantized_param((), (), jnp.float32)

    def matrix(self, dtype: DTypeLike) -> jax.Array:
        """Equal to bitsandbytes' dequantize_4bit, to the last bit; computed in float32."""
        outputs, inputs = self.shape
        codes, scales = self.codes[...], self._scales()
        pairs = jnp.stack([codes >> 4, codes & 15], -1)
        values = _looked_up(self.part.values, pairs)
        if self.is_flat:
            spread = jnp.repeat(scales, self.part.block, total_repeat_length=len(scales) * self.part.block)
            numbers = values.reshape(-1)[: outputs * inputs] * spread[: outputs * inputs]
        else:
            numbers = values.reshape(outputs, -1, self.part.block) * scales[..., None]
        return numbers.reshape(outputs, inputs).astype(dtype).T

    def _scales(self) -> jax.Array:
        """Float32, in the shape of `absmax`."""
        absmax = self.absmax[...]
        if not self.part.double:
            return absmax
        place = jnp.arange(absmax.size, dtype=jnp.int32).reshape(absmax.shape) // NESTED
        values = jnp.asarray(dynamic_map())[absmax]
        return rounded_product(values, self.nested_absmax[...][place]) + self.nested_offset[...]


def _looked_up(values: tuple[float, ...], codes: jax.Array) -> jax.Array:
    """Float32 `values[codes]`, by halving: a gather of single numbers is slow on TPUs.

    The first choice is between patterns of bits: as one between two numbers it would be made of arrays of constants,
    which a loop over layers would keep.
    """
    patterns = np.array(values, np.float32).view(np.int32)
    chosen = [((codes & 1).astype(jnp.int32) * int(even ^ odd)) ^ int(even) for even, odd in patterns.reshape(-1, 2)]
    for bit in range(1, 4):
        is_odd = (codes >> bit) & 1 == 1
        chosen = [jnp.where(is_odd, odd, even) for even, odd in zip(chosen[::2], chosen[1::2], strict=True)]
    return jax.lax.bitcast_convert_type(chosen[0], jnp.float32)
