"""A model whose frozen linear maps are quantised, and their way from a checkpoint and back to floats."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.adapters.adapted import linear_maps, linears
from jaxft.models.checkpoint.load import Views, aligned, finite
from jaxft.models.checkpoint.pretrained import Architecture
from jaxft.models.checkpoint.quantized_tensors import QuantizedView
from jaxft.models.checkpoint.tensors import release
from jaxft.models.layers.basic import QuantizedKernel
from jaxft.models.model import Model
from jaxft.models.params import Params, bind_part, initial, is_quantized, lead, names, shape, variables
from jaxft.models.stack import stacked
from jaxft.problems import UserError, listed, raise_problems
from jaxft.quantization.base import Quantization, QuantizationPart

THREADS = 4  # each holds a quantised array of all layers


def quantized(model: Model, arch: Architecture, quantization: Quantization, trained: Collection[str]) -> Model:
    """A copy of an abstract model whose linear maps are held in fewer bits: those that may have adapters, and so not
    embeddings, the head, routers and the maps of experts.

    `trained` are the names of the parameters that train. Raises UserError if maps are among them.
    """
    chosen = [one.name for one in linear_maps(model, arch)]
    if not chosen:
        raise UserError("config.quantization: the model has no linear maps that it could quantise; leave it out")
    if trains := [name for name in chosen if f"{name}.kernel" in trained]:
        raise UserError(
            f"config.quantization holds linear maps in fewer bits, in which they cannot train, but config.tune trains "
            f"{listed(trains, 3)}: train adapters on them (config.tune=LoRA), or leave config.quantization out"
        )
    copied, part = jax.tree.map(lambda value: value, model), quantization.part()
    for path, linear in list(linears(copied)):
        if names(copied, path)[0] in chosen:
            stacks, sizes, axes = lead(linear.kernel), shape(linear.kernel), linear.kernel.get_metadata("axes")
            inputs, outputs = sizes[stacks:]
            kernel = part.build(inputs, outputs, axes[stacks:])
            linear.kernel = stacked(kernel, sizes[0]) if stacks else kernel
    return copied


def quantized_kernels(model: Model) -> Iterator[tuple[str, QuantizedKernel]]:
    """(the stored path that the kernel would have in floats, kernel) of each quantised one."""
    for path, linear in linears(model):
        if linear.is_quantized:
            yield f"{path}.kernel", linear.kernel


def place_quantized(
    model: Model,
    base: Model,
    views: Views,
    placements: Mapping[str, jax.sharding.Sharding],
    part: QuantizationPart,
    seed: int,
) -> Params:
    """Stored path -> the sharded arrays of quantised kernels, from the `views` of the kernels of `base`, the model in
    floats, or from new values if the checkpoint has none.

    Matrices are quantised on the host as they are read, THREADS arrays at a time. Scales are of whole matrices, so that
    each process reads them whole. Raises UserError for tensors with NaN or infinities, or too large for the format.
    """
    broken: list[str] = []

    def one(path: str) -> Params:
        called = names(base, path)
        found = [views.get(name) for name in called]
        stored = [view for view in found if isinstance(view, np.ndarray | QuantizedView)]
        kernels: Sequence[np.ndarray | QuantizedView]
        kernels = stored if len(stored) == len(found) else initial(base, path, seed)
        arrays = _stacked_arrays(kernels, part, called, broken, bool(lead(variables(base)[path])))
        return {
            part_path: jax.make_array_from_callback(array.shape, placements[part_path], array.__getitem__)
            for part_path, array in ((f"{path}.{name}", array) for name, array in arrays.items())
        }

    with ThreadPoolExecutor(THREADS) as readers:
        made = list(readers.map(one, [path for path, _ in quantized_kernels(model)]))
    raise_problems(
        f"the checkpoint has NaN, infinities or numbers beyond float16 in {name}, which cannot be quantised: use "
        "another copy, or leave config.quantization out"
        for name in sorted(set(broken))
    )
    return {path: array for arrays in made for path, array in arrays.items()}


def _stacked_arrays(
    kernels: Sequence[np.ndarray | QuantizedView],
    part: QuantizationPart,
    called: Sequence[str],
    broken: list[str],
    stacks: bool,
) -> dict[str, np.ndarray]:
    """The arrays of kernels (inputs, outputs), one behind the other; names of those that have none are added to
    `broken`."""
    arrays: dict[str, np.ndarray] = {}
    for row, kernel in enumerate(kernels):
        found = _arrays(kernel, part)
        if not found or not np.isfinite(found["absmax"]).all():
            broken.append(called[row])
            continue
        for name, array in found.items():
            if name not in arrays:
                arrays[name] = aligned((len(kernels), *array.shape), array.dtype)
            arrays[name][row] = array
        if isinstance(kernel, np.ndarray):
            release([kernel])
    return arrays if stacks else {name: array[0] for name, array in arrays.items()}


def _arrays(kernel: np.ndarray | QuantizedView, part: QuantizationPart) -> dict[str, np.ndarray]:
    """The arrays of a kernel (inputs, outputs), {} if it has NaN or infinities: those of the checkpoint if it has the
    matrix in the same format."""
    if isinstance(kernel, QuantizedView):
        stored = part.stored(kernel.tensor) if len(kernel.widths) == 1 else None
        if stored is not None:
            return stored
        kernel = kernel[:, :]
    return part.quantize(kernel.T) if finite(kernel) else {}


def dequantized(model: Model, base: Model, params: Params) -> Params:
    """The parameters with the kernels of `base`, the model in floats, in place of quantised ones: float32."""
    found = variables(model)
    made = {path: value for path, value in params.items() if path not in found or not is_quantized(found[path])}
    for path, kernel in quantized_kernels(model):
        matrices = partial(_matrices, stacks=bool(lead(variables(base)[path])))
        made[path] = jax.jit(matrices)(bind_part(kernel, f"{path}.", params))
    return made


def requantized(part: QuantizationPart, kernel: np.ndarray) -> jax.Array:
    """A kernel (inputs, outputs) with the values that quantisation gives it, float32."""
    inputs, outputs = kernel.shape
    module = part.build(inputs, outputs, (None, None))
    return bind_part(module, "", part.quantize(kernel.T)).matrix(jnp.float32)


def _matrices(kernel: QuantizedKernel, stacks: bool) -> jax.Array:
    return jax.lax.map(lambda one: one.matrix(jnp.float32), kernel) if stacks else kernel.matrix(jnp.float32)
