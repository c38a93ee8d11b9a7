"""A model's linear maps, adapters on them, and the weights in which adapters are merged."""

import re
from collections.abc import Iterator, Mapping

import jax
from flax import nnx

from jaxft.adapters.base import AdapterPart
from jaxft.models.checkpoint.pretrained import Architecture
from jaxft.models.layers.basic import Adapter, Linear
from jaxft.models.model import Model
from jaxft.models.params import Params, bind_part, lead, names, roles, shape, variables
from jaxft.models.stack import stacked
from jaxft.tune.base import LinearMap, Tunable


def linears(model: Model) -> Iterator[tuple[str, Linear]]:
    """(path, linear map) of each in the model; a stacked one is that of several layers."""
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Linear):
            yield ".".join(map(str, path)), module


def tunable(model: Model, arch: Architecture) -> Tunable:
    """What tuning methods know of a model."""
    tensors = {name: arch.parameter(one.hf) for one in arch.tensor_maps for name in one.jaxft}
    trains_head = arch.kind not in ("none", "causal-lm", "seq2seq-lm", "masked-lm", "pretraining")
    return Tunable(roles(model), len(arch.spec.layers), tensors, tuple(linear_maps(model, arch)), trains_head)


def linear_maps(model: Model, arch: Architecture) -> Iterator[LinearMap]:
    """The linear maps that may have an adapter: those whose matrix PEFT adapts, but for the head's and routers."""
    modules = {
        name: arch.parameter(one.hf).removesuffix(".weight")
        for one in arch.tensor_maps
        if one.is_linear
        for name in one.jaxft
    }
    for path, linear in linears(model):
        for name in names(model, path):
            module = modules.get(f"{name}.kernel")
            if module is None or not linear.adaptable or name.startswith("head."):
                continue
            inputs, outputs = shape(linear.kernel)[lead(linear.kernel) :]
            number = re.fullmatch(r"(?:encoder\.)?layers\.(\d+)\.(.+)", name)
            layer, place = (int(number[1]), number[2]) if number else (None, name)
            yield LinearMap(name, module, inputs, outputs, layer, place)


def attach(model: Model, parts: Mapping[str, AdapterPart]) -> None:
    """Puts adapters on a new model. `parts` are by the names of linear maps; those of one stacked array are equal."""
    for path, linear in list(linears(model)):
        part = parts.get(names(model, path)[0])
        if part is None:
            continue
        stacks = lead(linear.kernel)
        sizes, axes = shape(linear.kernel), linear.kernel.get_metadata("axes")
        inputs, outputs = sizes[stacks:]
        adapter = part.build(inputs, outputs, axes[stacks:])
        linear.adapter = stacked(adapter, sizes[0]) if stacks else adapter


def is_adapter(variable: nnx.Param) -> bool:
    """Whether a parameter is an adapter's."""
    return variable.get_metadata("origin") == "adapter"


def trained_adapter(variable: nnx.Param) -> bool:
    """Whether a parameter is an adapter's, and trains."""
    return is_adapter(variable) and not variable.get_metadata("fixed")


def adapted_weights(model: Model) -> list[str]:
    """The stored paths of the kernels and biases of linear maps that have an adapter."""
    adapted = [(path, linear) for path, linear in linears(model) if linear.adapter is not None]
    biases = [f"{path}.bias" for path, linear in adapted if linear.bias is not None]
    return [f"{path}.kernel" for path, _ in adapted] + biases


def merged_params(model: Model, params: Params) -> Params:
    """The parameters of the model without adapters that computes the same. Merged weights are float32."""
    merged = {path: params[path] for path, variable in variables(model).items() if not is_adapter(variable)}
    for path, linear in linears(model):
        if linear.adapter is not None:
            kernel, bias = params[f"{path}.kernel"], params.get(f"{path}.bias")
            adapter = bind_part(linear.adapter, f"{path}.adapter.", params)
            apply = jax.vmap(merged_map) if lead(linear.kernel) else merged_map
            merged[f"{path}.kernel"], bias = jax.jit(apply)(adapter, kernel, bias)
            merged |= {} if bias is None else {f"{path}.bias": bias}
    return merged


def merged_map(adapter: Adapter, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """The adapter's own `merged`, as a function."""
    return adapter.merged(kernel, bias)
