"""The interface of formats of quantised matrices."""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxft.models.checkpoint.quantized_tensors import QuantizedTensor
from jaxft.models.layers.basic import QuantizedKernel


class QuantizationPart(Protocol):
    """The description of a format: hashable, equal for equal formats."""

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> QuantizedKernel:
        """The abstract arrays of a linear map; `axes` are the logical names of its kernel's axes."""
        ...

    def quantize(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of a matrix (outputs, inputs) of finite floats, as PyTorch stores it, by their names in `build`'s
        module."""
        ...

    def stored(self, tensor: QuantizedTensor) -> dict[str, np.ndarray] | None:
        """As `quantize`, of a matrix that a checkpoint has in this format; None if it has it in another."""
        ...


class Quantization(Protocol):
    """A `@config` class."""

    def part(self) -> QuantizationPart:
        """The format with these settings."""
        ...


def quantized_param(shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: DTypeLike) -> nnx.Param:
    """An abstract array of a quantised matrix, which never trains; `axes` as for `param` (models/layers/basic.py)."""
    value = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    return nnx.Param(value, axes=axes, role="other", init="zeros", fixed=True, origin="quantized", lr_factor=1.0)
