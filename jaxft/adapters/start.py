"""The values with which adapters start: those that depend on the weights, and those of an adapter that trains on."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jaxft.adapters.adapted import linears
from jaxft.adapters.base import PeftMethod, StoredModule, Tensors
from jaxft.adapters.methods import method_of
from jaxft.adapters.peft_files import MISFITS, AdapterFiles, other_base, own_values, sorted_tensors, tie_problems
from jaxft.models.checkpoint.load import Views
from jaxft.models.checkpoint.pretrained import Architecture
from jaxft.models.checkpoint.weight_table import TensorMap
from jaxft.models.layers.basic import Linear
from jaxft.models.model import Model
from jaxft.models.params import initial, lead, names, shape, variables
from jaxft.problems import raise_problems


def start_values(
    model: Model, views: Views, seed: int, held: Callable[[np.ndarray], np.ndarray] = lambda kernel: kernel
) -> Views:
    """Initial values, by name, of the adapters' parameters that depend on the weights, which `views` holds or, if it
    does not, are newly initialised. `held` gives a kernel as the model holds it."""
    found: Views = {}
    for path, linear in linears(model):
        if linear.adapter is None or not linear.adapter.part.starts_from_kernel:
            continue
        kernel = f"{path}.kernel"
        new = initial(model, kernel, seed) if names(model, kernel)[0] not in views else None
        for row, name in enumerate(names(model, path)):
            each = np.asarray(views[f"{name}.kernel"][:, :] if new is None else new[row], np.float32)
            found |= {f"{name}.adapter.{own}": value for own, value in linear.adapter.part.start(held(each)).items()}
    return found


def method_problems(files: AdapterFiles, tune: object, directory: str | Path) -> list[str]:
    """Whether a method cannot go on with an adapter, since it is another one's."""
    method = method_of(files.config)
    if method is type(tune):
        return []
    name = method.__name__ if method else files.config["peft_type"]
    own = type(tune).__name__
    return [f"config.adapter: {directory} has an adapter of {name}, but config.tune is {own}: set config.tune={name}"]


def continued(
    model: Model, arch: Architecture, views: Views, files: AdapterFiles, tune: PeftMethod, directory: str | Path
) -> Views:
    """Values, by name, of a model's adapters and of what else an adapter's files hold.

    Raises UserError for files that are not of these adapters: other modules, ranks or factors, or another base.
    """
    layers = {name: linear for path, linear in linears(model) for name in names(model, path) if linear.adapter}
    by_tensor = {arch.parameter(one.hf): one for one in arch.tensor_maps}
    modules = {name.removesuffix(".weight") for name, one in by_tensor.items() if one.is_linear}
    stored, own, problems = sorted_tensors(files, modules, directory)
    found, more = own_values(own, views, by_tensor, directory)
    problems += more + tie_problems(own, arch)
    shapes = {name: shape(v)[lead(v) :] for path, v in variables(model).items() for name in names(model, path)}
    problems += [
        other_base(name, v.shape, directory) for name, v in found.items() if tuple(v.shape) != shapes.get(name)
    ]
    adapted = {
        arch.parameter(one.hf).removesuffix(".weight"): one
        for one in arch.tensor_maps
        if one.is_linear and layers.keys() >= {name.removesuffix(".kernel") for name in one.jaxft}
    }
    problems += _module_problems(stored, adapted, directory)
    unequal: list[str] = []
    for module in sorted(stored.keys() & adapted.keys()):
        one, tensors = adapted[module], stored[module]
        maps = [name.removesuffix(".kernel") for name in one.jaxft]
        try:
            found_part = StoredModule(tune.part_of(files.config, module, tensors), tensors)
            values = _values(found_part, one, [layers[name] for name in maps])
        except MISFITS:
            problems.append(other_base(module, next(iter(tensors.values())).shape, directory))
            continue
        if values is None:
            unequal.append(f"{module} ({found_part.part.described()})")
            continue
        for name, each in zip(maps, values, strict=True):
            found |= {f"{name}.adapter.{parameter}": value for parameter, value in each.items()}
    if unequal:
        rest = f" and {len(unequal) - 1} more" if len(unequal) > 1 else ""
        problems.append(
            f"config.adapter: the adapter in {directory} has other settings than config.tune for {unequal[0]}{rest}: "
            "make them equal, or merge the adapter into the model (jaxft.load(base, adapter=...).save)"
        )
    raise_problems(problems)
    return found


def _module_problems(
    stored: Mapping[str, Tensors], adapted: Mapping[str, TensorMap], directory: str | Path
) -> list[str]:
    """Modules that only the files or only config.tune adapts."""
    problems = []
    for names_of, what in (
        (stored.keys() - adapted.keys(), "has an adapter for {}, which config.tune does not adapt"),
        (adapted.keys() - stored.keys(), "has none for {}, which config.tune adapts"),
    ):
        if names_of:
            first = sorted(names_of)[0]
            more = f" and {len(names_of) - 1} more" if len(names_of) > 1 else ""
            problems.append(
                f"config.adapter: {directory} {what.format(first + more)}: set config.tune.target_modules and "
                "layers_to_transform as they were"
            )
    return problems


def _values(stored: StoredModule, one: TensorMap, maps: Sequence[Linear]) -> list[Tensors] | None:
    """The parameters of the adapters of each linear map of a module; None if they have other settings.

    Raises one of MISFITS for tensors of other shapes.
    """
    widths = [shape(linear.kernel)[-1] for linear in maps]
    each = maps[0].adapter.part.parted(stored, partial(_pieces, one, widths), len(maps))
    if each is None:
        return None
    found = []
    for linear, tensors in zip(maps, each, strict=True):
        values = linear.adapter.part.values(tensors)
        variables_of = variables(linear.adapter)
        if {n: a.shape for n, a in values.items()} != {n: shape(v)[lead(v) :] for n, v in variables_of.items()}:
            raise ValueError(values)
        found.append(values)
    return found


def _pieces(one: TensorMap, widths: Sequence[int], array: np.ndarray) -> list[np.ndarray]:
    """An array (..., outputs of a module) as those of its linear maps."""
    return one.layout.split(array.T if one.layout.outputs_axis == 0 else array, widths)
