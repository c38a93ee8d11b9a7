"""Floating-point operations of a training step, counted in the traced program, and the peaks of chips."""

import math
import re
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jaxft.models.batch import Batch
from jaxft.models.model import Model
from jaxft.models.params import Params, bind, frozen_dtype, shape, variables

# Dense bfloat16 peak of one chip, FLOP/s, from the makers' data sheets, by words of JAX's `device_kind`. Where one name
# is the beginning of another, the longer one comes first.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L4": 121e12,
}
NO_MESH = jax.sharding.AbstractMesh((), ())


def peak_flops() -> float | None:
    """Peak of all devices together, FLOP/s; None if the chip is not in the table."""
    kind = jax.devices()[0].device_kind
    known = [peak for name, peak in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", kind)]
    return known[0] * jax.device_count() if known else None


def step_flops(model: Model, trained: Collection[str], batch: Batch) -> int:
    """Model FLOPs of one training step on a batch, forward and backward, as the numerator of the MFU (Chowdhery et al.
    2022, appendix B). `trained` are stored paths (models/params.py). Only the shapes of the batch's arrays matter.

    Matrix products and convolutions count, two operations for a multiply-add. The backward pass has one more product
    of the same size for each operand that needs a gradient: where everything trains, a step is three forward passes.
    Where nothing trains below a product, its input needs no gradient. Attention counts every key, masked or not.
    Recomputation does not count, neither `remat` nor that of attention's scores.
    """
    found = variables(model)
    params = {path: jax.ShapeDtypeStruct(shape(v), frozen_dtype(v, model.dtype)) for path, v in found.items()}
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)

    def forward(params: Params, batch: Batch) -> tuple[jax.Array | None, jax.Array | None]:
        outputs = bind(model, params)(batch)
        logits = outputs.logits
        return outputs.hidden if logits is None else logits, outputs.pair_logits

    with jax.sharding.use_abstract_mesh(NO_MESH):  # the whole batch's program, not a device's share of it
        program = jax.make_jaxpr(forward)(params, inputs).jaxpr
    return program_flops(program, [*(path in trained for path in sorted(params)), *[False] * len(batch)])[0]


def program_flops(jaxpr: Jaxpr, needs_grad: Sequence[bool]) -> tuple[int, list[bool]]:
    """(FLOPs, which results need a gradient) of a program, given which of its inputs need one.

    A result needs a gradient if it is a float and depends on an input that needs one.
    """
    known: dict[Var, bool] = dict(zip(jaxpr.invars, needs_grad, strict=True))

    def need_gradients(values: Sequence[Var | Literal]) -> list[bool]:
        return [not isinstance(value, Literal) and known.get(value, False) for value in values]

    total = 0
    for equation in jaxpr.eqns:
        flops, results = _equation(equation, need_gradients(equation.invars))
        total += flops
        for value, result in zip(equation.outvars, results, strict=True):
            known[value] = result and jnp.issubdtype(_array(value).dtype, jnp.floating)
    return total, need_gradients(jaxpr.outvars)


def _equation(equation: JaxprEqn, needs_grad: list[bool]) -> tuple[int, list[bool]]:
    """As `program_flops`. A `while` loop counts as nothing: how often it turns is not known before it runs."""
    params, count = equation.params, len(equation.outvars)
    match equation.primitive.name:
        case "dot_general" | "ragged_dot_general" | "conv_general_dilated":
            return _product(equation) * (1 + sum(needs_grad[:2])), [any(needs_grad)]
        case "stop_gradient":
            return 0, [False] * count
        case "scan":
            return _scan(equation, needs_grad)
        case "cond":  # the branch with the most
            branches = [program_flops(_open(branch), needs_grad[1:]) for branch in params["branches"]]
            results = zip(*(results for _, results in branches), strict=True)
            return max(flops for flops, _ in branches), [any(result) for result in results]
    called = params.get("jaxpr", params.get("call_jaxpr"))  # by jit, remat, custom_jvp and custom_vjp
    if called is None:
        return 0, [any(needs_grad)] * count
    return program_flops(_open(called), needs_grad)


def _scan(equation: JaxprEqn, needs_grad: list[bool]) -> tuple[int, list[bool]]:
    """A loop's body, as often as it runs. The carry needs a gradient in every turn if it needs one after any."""
    body = _open(equation.params["jaxpr"])
    # The body has slices of what is scanned and stacked, and all else as it is: constants and the carry.
    scanned, stacked = (
        sum(_array(a).shape != _array(b).shape for a, b in zip(outside, inside, strict=True))
        for outside, inside in ((equation.invars, body.invars), (equation.outvars, body.outvars))
    )
    last = len(body.invars) - scanned
    first = last - (len(body.outvars) - stacked)
    while True:
        flops, results = program_flops(body, needs_grad)
        carry = [before or after for before, after in zip(needs_grad[first:last], results, strict=False)]
        if carry == needs_grad[first:last]:
            return equation.params["length"] * flops, results
        needs_grad = [*needs_grad[:first], *carry, *needs_grad[last:]]


def _open(program: Jaxpr | ClosedJaxpr) -> Jaxpr:
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def _product(equation: JaxprEqn) -> int:
    """Two operations for each number of the result and each term of its sum."""
    left, right = (_array(operand).shape for operand in equation.invars[:2])
    match equation.primitive.name:
        case "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            terms = math.prod(left[axis] for axis in contracted)
        case "ragged_dot_general":  # (rows, terms) and (groups, terms, columns): a row meets one group's matrix
            terms = left[-1]
        case _:  # a convolution: the kernel's axes but for that of its output channels
            terms = math.prod(right) // right[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(_array(equation.outvars[0]).shape) * terms


def _array(value: Var | Literal) -> ShapedArray:
    assert isinstance(value.aval, ShapedArray)  # a model's program has no other values
    return value.aval
