"""Int8, the weights of LLM.int8() (Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at
Scale", section 2.1, "vector-wise quantization")."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxft.config.component import config
from jaxft.models.checkpoint.quantized_tensors import EightBitTensor, QuantizedTensor
from jaxft.models.layers.basic import QuantizedKernel
from jaxft.quantization.base import quantized_param

ROWS = 2**18  # numbers that are quantised at a time
SHARE = 7.874015718698502e-3  # 1 / 127 as a float32, with which bitsandbytes multiplies


@config
class Int8:
    """Linear maps of frozen layers in eight bits, with a scale for each output. Activations keep their format, as in
    bitsandbytes' own training on CPUs; on GPUs LLM.int8() rounds them to eight bits as well."""

    def part(self) -> "RowWise":
        """See base.py."""
        return RowWise()


@dataclass(frozen=True)
class RowWise:
    """A scale for each output of a linear map."""

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "RowWiseKernel":
        return RowWiseKernel(inputs, outputs, axes)

    def quantize(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """See base.py. Equal to bitsandbytes' int8_vectorwise_quant of the matrix in float16, to which Linear8bitLt
        rounds it first. Larger numbers than float16 has give an infinite scale."""
        codes, scales = np.zeros(matrix.shape, np.int8), np.zeros(len(matrix), np.float32)
        step = max(1, ROWS // matrix.shape[1])
        for start in range(0, len(matrix), step):
            with np.errstate(over="ignore"):
                rows = matrix[start : start + step].astype(np.float16).astype(np.float32)
            absmax = np.abs(rows).max(1)
            is_usable = (absmax > 0) & np.isfinite(absmax)  # others stay 0
            scale = np.float32(127) * (np.float32(1) / np.where(is_usable, absmax, np.float32(1)))  # as PyTorch divides
            codes[start : start + step] = np.where(is_usable[:, None], np.rint(rows * scale[:, None]), 0)
            scales[start : start + step] = absmax
        return {"codes": codes, "absmax": scales}

    def stored(self, tensor: QuantizedTensor) -> dict[str, np.ndarray] | None:
        """See base.py."""
        return {"codes": tensor.codes, "absmax": tensor.absmax} if isinstance(tensor, EightBitTensor) else None


class RowWiseKernel(QuantizedKernel):
    """`codes` (outputs, inputs), int8, and `absmax` (outputs), the largest magnitude of each row, float32."""

    def __init__(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]):
        self.codes = quantized_param((outputs, inputs), (axes[1], axes[0]), jnp.int8)
        self.absmax = quantized_param((outputs,), (axes[1],), jnp.float32)

    def matrix(self, dtype: DTypeLike) -> jax.Array:
        """Equal to bitsandbytes' int8_vectorwise_dequant, to the last bit; computed in float32."""
        scaled = self.codes[...].astype(jnp.float32) * self.absmax[...][:, None]
        return (scaled * jnp.float32(SHARE)).astype(dtype).T
