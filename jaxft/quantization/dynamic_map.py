"""Eight-bit numbers with a dynamic exponent (Dettmers 2015, "8-Bit Approximations for Parallelism in Deep Learning"),
in blocks with a scale each (Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization", section 2.1)."""

from functools import cache

import numpy as np

EXPONENTS = 7  # powers of ten
PLACES = 2**16  # numbers of which the nearest code is known


@cache
def dynamic_map(signed: bool = True) -> np.ndarray:
    """The numbers of the 256 codes, float32, ascending: to the last bit those of bitsandbytes' create_dynamic_map.

    The power 10^-k leaves 7 - k bits, one more without a sign, to equal parts of the range from 0.1 to 1.
    """
    found = [np.array([0.0, 1.0], np.float32)]
    for exponent in range(EXPONENTS):
        parts = 2**exponent if signed else 2 ** (exponent + 1)
        ends = _linspace(parts + 1)
        means = (ends[:-1] + ends[1:]) / np.float32(2)
        scaled = np.float32(10.0 ** (exponent - EXPONENTS + 1)) * means
        found += [scaled, -scaled] if signed else [scaled]
    made = np.sort(np.concatenate(found))
    made.flags.writeable = False  # it is shared
    return made


def quantize_blocks(numbers: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes uint8 (n), the largest magnitude of each block, float32): bitsandbytes' quantize_blockwise of float32 (n)
    with the signed map, on a CPU. The last block may be shorter. Codes of a block of zeros are 0, as its scale is."""
    blocks = -(-len(numbers) // block)
    padded = np.zeros(blocks * block, np.float32)
    padded[: len(numbers)] = numbers
    rows = padded.reshape(blocks, block)
    absmax = np.abs(rows).max(1, initial=0)
    inverse = np.float32(1) / np.where(absmax == 0, np.float32(1), absmax)
    halved = (np.clip(rows * inverse[:, None], -1, 1) + np.float32(1)) * np.float32(0.5)
    place = (halved.astype(np.float64) * (PLACES - 1) + 0.5).astype(np.float32)  # fused: rounded once, then cut
    codes = np.where(absmax[:, None] == 0, np.uint8(0), nearest_codes()[place.astype(np.int32)])
    return codes.reshape(-1)[: len(numbers)], absmax


@cache
def nearest_codes(signed: bool = True) -> np.ndarray:
    """The codes of PLACES numbers from -1 to 1, by which bitsandbytes looks up the nearest code on a CPU: coarser than
    the map itself near 0."""
    table = dynamic_map(signed)
    middles = np.float32(0.5) * (table[:-1] + table[1:])
    numbers = np.float32(2) * np.arange(PLACES, dtype=np.float32) / np.float32(PLACES - 1) - np.float32(1)
    made = np.searchsorted(middles, numbers).astype(np.uint8)
    made.flags.writeable = False
    return made


def _linspace(count: int) -> np.ndarray:
    """torch.linspace(0.1, 1, count): from both ends, with one rounding a number."""
    first, last = np.float32(0.1), np.float32(1)
    step, number = (last - first) / np.float32(count - 1), np.arange(count)
    up, down = float(first) + float(step) * number, float(last) - float(step) * number[::-1]
    return np.where(number < count // 2, up, down).astype(np.float32)
