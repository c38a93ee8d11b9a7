"""The interface of optimizers, and the learning-rate multipliers that apply to each of them."""

import re
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import optax

from jaxft import paths
from jaxft.models.model import Model
from jaxft.models.params import all_names, lead, names, shape, variables
from jaxft.optim.parameters import Parameter, Parameters
from jaxft.problems import raise_problems


class Optimizer(Protocol):
    """A `@config` class. It gets only the trained parameters; frozen ones have no optimizer state."""

    def make(self, lr: optax.Schedule, parameters: Parameters) -> optax.GradientTransformation:
        """The transformation for flat dicts (stored path -> array). Only kernels and embeddings decay."""


def optimizer(
    optim: Optimizer, lr: optax.Schedule, model: Model, trained: list[str], multipliers: Mapping[str, np.ndarray]
) -> optax.GradientTransformation:
    """The gradient transformation for the parameters at the stored paths `trained`, multipliers included."""
    found = variables(model)
    parameters = {path: Parameter(found[path].get_metadata("role"), bool(lead(found[path]))) for path in trained}
    parts = [optim.make(lr, parameters)]
    if any(np.any(factor != 1.0) for factor in multipliers.values()):
        parts.append(_scaled({path: multipliers[path] for path in trained}))
    return optax.chain(*parts)


def lr_multipliers(
    model: Model, table: tuple[tuple[str, float], ...], layer_decay: float | None
) -> dict[str, np.ndarray]:
    """Stored path -> factor of the learning rate, in a shape that broadcasts over the parameter.

    `table` holds (pattern, factor) pairs, of which the first match counts. With `layer_decay` d, layer i of n gets
    d^(n - i), the embeddings d^(n + 1), parameters above the layers 1 (Clark et al. 2020, appendix A). The layers of an
    encoder come before those of its decoder. A parameter's own factor (`param`)
    comes on top.
    """
    raise_problems(paths.unmatched_problems([pattern for pattern, _ in table], all_names(model), "lr_multipliers"))
    factors: dict[str, np.ndarray] = {}
    encoder = len(model.spec.encoder.layers) if model.spec.encoder else 0
    for path, variable in variables(model).items():
        own = variable.get_metadata("lr_factor")
        rows = [
            own
            * paths.lookup(table, name, 1.0)
            * (layer_decay or 1.0) ** _from_top(name, len(model.spec.layers), encoder)
            for name in names(model, path)
        ]
        each = (len(rows),) + (1,) * (len(shape(variable)) - 1) if lead(variable) else ()
        factors[path] = np.array(rows, np.float32).reshape(each)
    return factors


def _from_top(name: str, layers: int, encoder_layers: int) -> int:
    """The number of layers from a parameter to the top, its own included."""
    match = re.match(r"(encoder\.)?(?:layers\.(\d+)\.)?", name)
    assert match is not None  # both groups are optional
    side, number = match.groups()
    if name.removeprefix(side or "").startswith(("embed.", "rel_bias.")):
        return layers + encoder_layers + 1
    above, own = (layers, encoder_layers) if side else (0, layers)
    return above + (own - int(number) if number else 0)


def _scaled(factors: Mapping[str, np.ndarray]) -> optax.GradientTransformation:
    """Multiplies each update by its factor. Last in the chain, so that weight decay is scaled like the rate."""
    return optax.stateless(lambda updates, _: {path: update * factors[path] for path, update in updates.items()})
