"""What surrounds every optimizer: learning-rate multipliers after it, no decay on biases and norms.

An optimizer is a `@config` object with `make(lr, parameters) -> optax.GradientTransformation`: `lr` is a schedule,
`parameters` says what each one is (optim/parameters.py). It sees only what trains: frozen parameters have no state and
cost nothing.
"""

import re

import numpy as np
import optax

from jaxft import paths
from jaxft.models.model import Model
from jaxft.models.params import all_names, lead, names, shape, variables
from jaxft.optim.parameters import Parameter
from jaxft.problems import raise_problems


def optimizer(optim, lr, model: Model, trained: list[str], multipliers: dict[str, np.ndarray]):
    """The whole gradient transformation for the parameters at the stored paths `trained`."""
    found = variables(model)
    parameters = {path: Parameter(found[path].get_metadata("role"), bool(lead(found[path]))) for path in trained}
    parts = [optim.make(lr, parameters)]
    if any(np.any(factor != 1.0) for factor in multipliers.values()):
        parts.append(_scaled({path: multipliers[path] for path in trained}))
    return optax.chain(*parts)


def lr_multipliers(
    model: Model, table: tuple[tuple[str, float], ...], layer_decay: float | None
) -> dict[str, np.ndarray]:
    """Stored path -> factor on the learning rate, shaped to broadcast over the parameter.

    `table` holds (pattern, factor) pairs, the first match counts. With `layer_decay` d, layer i of n has d^(n - i),
    the embeddings d^(n + 1), everything above the layers 1 (Clark et al. 2020, appendix A). An encoder's layers come
    before its decoder's.
    """
    raise_problems(paths.unmatched_problems([pattern for pattern, _ in table], all_names(model), "lr_multipliers"))
    factors, encoder = {}, len(model.spec.encoder.layers) if model.spec.encoder else 0
    for path, variable in variables(model).items():
        rows = [
            paths.lookup(table, name, 1.0) * (layer_decay or 1.0) ** _from_top(name, len(model.spec.layers), encoder)
            for name in names(model, path)
        ]
        each = (len(rows),) + (1,) * (len(shape(variable)) - 1) if lead(variable) else ()
        factors[path] = np.array(rows, np.float32).reshape(each)
    return factors


def _from_top(name: str, layers: int, encoder_layers: int) -> int:
    """How many layers up to the top a parameter is, its own one included."""
    side, number = re.match(r"(encoder\.)?(?:layers\.(\d+)\.)?", name).groups()
    if name.removeprefix(side or "").startswith(("embed.", "distances.")):
        return layers + encoder_layers + 1
    above, own = (layers, encoder_layers) if side else (0, layers)
    return above + (own - int(number) if number else 0)


def _scaled(factors) -> optax.GradientTransformation:
    """Multiply each update by its factor. Last in the chain, so decay is scaled with the rate, as it should be."""
    return optax.stateless(lambda updates, _: {path: update * factors[path] for path, update in updates.items()})
