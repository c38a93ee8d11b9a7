"""NF4, FP4 and Int8 beside bitsandbytes: codes, scales and dequantised numbers, to the last bit."""

import bitsandbytes.functional as functional
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from quantised import THREADS

from jaxft.models.params import bind_part
from jaxft.quantization.dynamic_map import dynamic_map, quantize_blocks
from jaxft.quantization.fp4 import FP4
from jaxft.quantization.int8 import Int8
from jaxft.quantization.nf4 import NF4
from jaxft.quantization.torch_mean import torch_mean

# (outputs, inputs): blocks that divide the rows, that do not, an odd size, less than a block, several nested blocks.
SHAPES = [(6, 128), (24, 24), (7, 13), (33, 65), (3, 5), (300, 320)]
FORMATS = {
    "nf4": NF4(),
    "nf4, simple": NF4(block=32, double=False),
    "nf4, long blocks": NF4(block=256),
    "fp4": FP4(),
    "fp4, simple": FP4(double=False),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def matrix_of(shape, dtype, seed=0):
    """Noise with a few rows of zeros, as NumPy and PyTorch have it."""
    made = (0.05 * np.random.default_rng(seed).standard_normal(shape)).astype(jnp.dtype(dtype))
    made[1::3] = 0
    return made, torch.tensor(made.astype(np.float32)).to(DTYPES[dtype])


def dequantised(part, found, shape, dtype):
    """The matrix (outputs, inputs) of the arrays that a format gave."""
    kernel = part.build(shape[1], shape[0], (None, None))
    params = {name: jnp.asarray(array) for name, array in found.items()}
    made = jax.jit(lambda params: bind_part(kernel, "", params).matrix(dtype))(params)
    return np.ascontiguousarray(np.asarray(made).T)


def same_bits(ours, theirs):
    theirs = theirs.contiguous()
    theirs = theirs.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if theirs.dtype == torch.bfloat16 else theirs
    np.testing.assert_array_equal(ours.ravel().view(np.uint8), np.asarray(theirs).ravel().view(np.uint8))


def test_the_mean_is_pytorchs():
    for count in [1, 7, 8, 9, 31, 100, 1023, 5000, 40_001, 300_000]:
        numbers = np.abs(np.random.default_rng(count).standard_normal(count)).astype(np.float32)
        assert torch_mean(numbers) == torch.tensor(numbers).mean().numpy(), count


@pytest.mark.parametrize("signed", [True, False])
def test_the_dynamic_map_is_theirs(signed):
    same_bits(dynamic_map(signed), functional.create_dynamic_map(signed=signed))


@pytest.mark.parametrize("kind", ["noise", "map", "midway", "zeros", "equal"])
def test_blocks_of_eight_bits(kind):
    table = dynamic_map()
    numbers = {
        "noise": np.random.default_rng(0).standard_normal(100_001).astype(np.float32),
        "map": table,
        "midway": np.append((table[1:] + table[:-1]) / np.float32(2), np.float32(1)),
        "zeros": np.zeros(300, np.float32),
        "equal": np.full(300, -2, np.float32),
    }[kind]
    codes, absmax = quantize_blocks(numbers, 256)
    theirs, state = functional.quantize_blockwise(torch.tensor(numbers), blocksize=256)
    same_bits(codes, theirs)
    same_bits(absmax, state.absmax)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_four_bits(name, shape, dtype):
    how, (ours, theirs) = FORMATS[name], matrix_of(shape, dtype)
    found = how.part().quantize(ours)
    codes, state = functional.quantize_4bit(
        theirs, blocksize=how.block, compress_statistics=how.double, quant_type=name[:3]
    )
    same_bits(found["codes"], codes)
    same_bits(found["absmax"], state.absmax)
    if how.double:
        same_bits(found["nested_absmax"], state.state2.absmax)
        same_bits(found["nested_offset"], state.offset)
    for dtype in DTYPES:
        state.dtype = DTYPES[dtype]
        if shape[1] % how.block:  # of such rows bitsandbytes' AVX512 code takes wrong scales
            state.shape = (shape[0] * shape[1],)
        wanted = functional.dequantize_4bit(codes.reshape(-1, 1), state)
        # Whether 0 of FP4 has a sign depends on the instructions that bitsandbytes uses: adding 0 removes it.
        same_bits(dequantised(how.part(), found, shape, dtype) + 0, wanted + 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_eight_bits(shape, dtype):
    ours, theirs = matrix_of(shape, dtype)
    ours[1::3], theirs[1::3] = 1e-3, 1e-3  # of a row of zeros bitsandbytes makes NaN, and casts it
    found = Int8().part().quantize(ours)
    codes, scales, _ = functional.int8_vectorwise_quant(theirs.half())
    same_bits(found["codes"], codes)
    same_bits(found["absmax"], scales)
    wanted = functional.int8_vectorwise_dequant(codes, scales)
    for dtype in DTYPES:
        same_bits(dequantised(Int8().part(), found, shape, dtype), wanted.to(DTYPES[dtype]))


def test_eight_bits_of_zeros():
    found = Int8().part().quantize(np.zeros((3, 5), np.float32))
    assert not found["codes"].any() and not found["absmax"].any()
    assert not dequantised(Int8().part(), found, (3, 5), "float32").any()
