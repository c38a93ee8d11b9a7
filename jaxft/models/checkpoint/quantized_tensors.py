"""Matrices that bitsandbytes quantised, in a checkpoint: several tensors that stand for one of floats.

Of `X.weight` in four bits there are `X.weight` (bytes of two codes), `.absmax`, `.quant_map`, with nested scales also
`.nested_absmax` and `.nested_quant_map`, and `.quant_state.bitsandbytes__nf4` (or fp4), whose bytes are JSON; in eight
bits `X.weight` and `X.SCB`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from jaxft.host import strict_json
from jaxft.models.checkpoint.weight_table import Layout
from jaxft.problems import raise_problems, truncated_repr

STATE = re.compile(r"(.+)\.quant_state\.bitsandbytes__(?:nf4|fp4)")
FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
NESTED = 256  # scales that share a scale
SHARE = np.float32(7.874015718698502e-3)  # 1 / 127, as bitsandbytes rounds it


class QuantizedTensor(Protocol):
    """A quantised matrix of a checkpoint."""

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The number format that it had."""
        ...

    def dequantized(self) -> np.ndarray:
        """The matrix (outputs, inputs) in its `dtype`."""
        ...


@dataclass(frozen=True)
class FourBitTensor:
    """Codes of four bits, with a scale for each block of the flat matrix."""

    shape: tuple[int, int]
    dtype: np.dtype
    block: int
    values: np.ndarray  # float32 (16), of the codes
    codes: np.ndarray  # uint8 (ceil(size / 2)), two codes each
    absmax: np.ndarray  # (blocks): float32, or uint8 if nested
    nested_values: np.ndarray | None = None  # float32 (256), of the codes in `absmax`
    nested_absmax: np.ndarray | None = None  # float32 (ceil(blocks / 256))
    nested_offset: float = 0.0

    def dequantized(self) -> np.ndarray:
        """See QuantizedTensor."""
        size = self.shape[0] * self.shape[1]
        codes = np.stack([self.codes >> 4, self.codes & 15], -1).reshape(-1)[:size]
        numbers, scales, whole = self.values[codes], self.scales(), size // self.block * self.block
        rows = numbers[:whole].reshape(-1, self.block)
        rows *= scales[: len(rows), None]
        numbers[whole:] *= scales[-1]
        return numbers.astype(self.dtype).reshape(self.shape)

    def scales(self) -> np.ndarray:
        """Float32 (blocks)."""
        if self.nested_values is None or self.nested_absmax is None:
            return self.absmax
        spread = np.repeat(self.nested_absmax, NESTED)[: len(self.absmax)]
        return self.nested_values[self.absmax] * spread + np.float32(self.nested_offset)


@dataclass(frozen=True)
class EightBitTensor:
    """Codes of eight bits, with a scale for each output."""

    codes: np.ndarray  # int8 (outputs, inputs)
    absmax: np.ndarray  # float32 (outputs)

    @property
    def shape(self) -> tuple[int, int]:
        outputs, inputs = self.codes.shape
        return outputs, inputs

    @property
    def dtype(self) -> np.dtype:
        """Float16, to which LLM.int8() rounds matrices."""
        return np.dtype(np.float16)

    def dequantized(self) -> np.ndarray:
        """See QuantizedTensor; float32, since the scales are."""
        return self.codes.astype(np.float32) * self.absmax[:, None] * SHARE


class QuantizedView:
    """A parameter of a quantised tensor, dequantised when it is indexed: one tensor at a time is in floats."""

    def __init__(self, tensor: QuantizedTensor, layout: Layout, widths: Sequence[int], number: int, stand_in: Any):
        """It is the `number`-th of the tensor's parameters; `stand_in` has its shape."""
        self.tensor, self.layout, self.widths, self.number = tensor, layout, widths, number
        self.shape: tuple[int, ...] = stand_in.shape

    def __getitem__(self, index: Any) -> np.ndarray:
        matrix = self.tensor.dequantized()
        matrix = matrix.T if self.layout.outputs_axis == 1 else matrix
        return self.layout.split(matrix, self.widths)[self.number][index]


def separated(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, QuantizedTensor]]:
    """(the tensors, each quantised matrix and its parts replaced by a stand-in of zeros without memory, which has its
    shape and number format; the quantised matrices by the same names).

    Raises UserError for matrices whose parts are missing or do not fit.
    """
    found: dict[str, QuantizedTensor] = {}
    parts: set[str] = set()
    problems: list[str] = []
    for name in tensors:
        if match := STATE.fullmatch(name):
            try:
                found[match[1]] = _four_bits(tensors, match[1], name)
            except (KeyError, ValueError, TypeError) as error:
                problems.append(f"the quantised {match[1]} is damaged ({truncated_repr(str(error))}): copy it again")
            parts |= {part for part in tensors if part.startswith(f"{match[1]}.")}
        elif name.endswith(".SCB") and (weight := name.removesuffix("SCB") + "weight") in tensors:
            if tensors[weight].dtype != np.int8 or tensors[weight].shape[:1] != tensors[name].shape:
                problems.append(f"the quantised {weight} does not fit its scales, {name}: copy it again")
                continue
            found[weight] = EightBitTensor(tensors[weight], tensors[name])
            parts |= {name, f"{weight}_format"}
    raise_problems(problems)
    kept = {name: array for name, array in tensors.items() if name not in parts}
    return kept | {name: np.broadcast_to(np.zeros((), one.dtype), one.shape) for name, one in found.items()}, found


def _four_bits(tensors: Mapping[str, np.ndarray], name: str, state_name: str) -> FourBitTensor:
    """Raises KeyError, ValueError or TypeError for parts that are missing or wrong."""
    state = strict_json.parse(np.asarray(tensors[state_name]).tobytes())
    outputs, inputs = state["shape"]
    block, size = int(state["blocksize"]), int(outputs) * int(inputs)
    codes, absmax = tensors[name].reshape(-1).view(np.uint8), tensors[f"{name}.absmax"]
    if len(codes) != (size + 1) // 2 or len(absmax) != -(-size // block):
        raise ValueError(f"{len(codes)} bytes and {len(absmax)} scales for {outputs} x {inputs} numbers")
    plain = (outputs, inputs), np.dtype(FLOATS[state["dtype"]]), block, tensors[f"{name}.quant_map"], codes, absmax
    if "nested_offset" not in state:
        return FourBitTensor(*plain)
    if state["nested_blocksize"] != NESTED:
        raise ValueError(f"nested_blocksize is {state['nested_blocksize']}, expected {NESTED}")
    nested = tensors[f"{name}.nested_quant_map"], tensors[f"{name}.nested_absmax"], float(state["nested_offset"])
    return FourBitTensor(*plain, *nested)
