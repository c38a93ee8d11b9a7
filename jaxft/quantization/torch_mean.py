"""The mean of float32 numbers, to the last bit that of PyTorch, in which bitsandbytes computes it."""

import math

import numpy as np

LANES = 8  # of a vector register: PyTorch's sums are compiled for AVX2, on newer processors as well
CHAINS = 4  # vectors that are summed side by side
LEVELS = 4  # partial sums of partial sums


def torch_mean(numbers: np.ndarray) -> np.float32:
    """The mean of float32 (n), n > 0, as torch.mean gives it on one thread.

    PyTorch rounds after each addition, and adds in its own order (ATen/native/cpu/SumKernel.cpp, "cascade sum"). On
    several threads it divides arrays of 32,768 numbers and more among them, so that its own result depends on their
    number.
    """
    count = len(numbers)
    vectors = numbers[: count // LANES * LANES].reshape(-1, LANES)
    whole = len(vectors) // CHAINS * CHAINS
    chains = _cascade(vectors[:whole].reshape(-1, CHAINS, LANES))
    for vector in vectors[whole:]:
        chains[0] += vector
    lanes = _in_turn(chains)
    total = np.float32(0)
    for number in (*numbers[len(vectors) * LANES :], *lanes):
        total += number
    return np.float32(total / np.float32(count))


def _cascade(rows: np.ndarray) -> np.ndarray:
    """The sum over the first axis: of groups, of groups of groups, and so on."""
    step = 2 ** max(4, math.ceil(math.log2(max(len(rows), 1))) // LEVELS)
    sums = []
    for _ in range(LEVELS - 1):
        whole = len(rows) // step * step
        sums.append(_in_turn(rows[whole:]))
        rows = _in_turn(rows[:whole].reshape(-1, step, *rows.shape[1:]).swapaxes(0, 1))
    return _in_turn(np.stack([*sums, _in_turn(rows)]))


def _in_turn(rows: np.ndarray) -> np.ndarray:
    """The sum over the first axis, one row after the other; NumPy's own sums in pairs."""
    total = np.zeros(rows.shape[1:], np.float32)
    for row in rows:
        total += row
    return total
