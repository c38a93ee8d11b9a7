"""Adafactor (Shazeer and Stern 2018), in Optax's form: second moments are stored as row and column means."""

from collections.abc import Callable
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxft.config.component import ARGUMENT, config
from jaxft.config.ranges import Count, NonNegative, Positive
from jaxft.optim.parameters import Parameters, decay_mask

Arrays = dict[str, jax.Array]  # by stored path
BATCHED = optax.FactoredState(count=None, v_row=0, v_col=0, v=0)  # vmap axes; the count of steps is shared


@config
class Adafactor:
    """Adafactor without momentum."""

    decay: NonNegative = field(default=0.0, metadata=ARGUMENT)  # weight decay, times the learning rate
    min_dim_factored: Count = 128  # smaller matrices have the full second moment
    clip_update: Positive = 1.0  # maximal root mean square of an update
    relative: bool = False  # rates are relative to each parameter's root mean square, at least 0.001 (section 8)

    def make(self, lr: optax.Schedule, parameters: Parameters) -> optax.GradientTransformation:
        """See optim/base.py."""
        stacked = {path for path, parameter in parameters.items() if parameter.stacked}
        # `optax.adafactor` does not multiply the decay by the rate.
        return optax.chain(
            _factored(self.min_dim_factored, stacked),
            _clipped(self.clip_update, stacked),
            _relative(stacked) if self.relative else optax.identity(),
            optax.add_decayed_weights(self.decay, decay_mask(parameters)),
            optax.scale_by_learning_rate(lr),
        )


def _factored(smallest: int, stacked: set[str]) -> optax.GradientTransformation:
    """Factored second moments of each matrix: of the last two axes of an array, with the leading ones as a batch.

    Optax factors the two longest axes, one of which may be that of layers: for norm scales, which are not matrices, or
    in a model with more layers than a kernel has columns.
    """
    rule = optax.scale_by_factored_rms(min_dim_size_to_factor=smallest)

    def batched(function: Callable, path: str, ndim: int, in_axes: tuple, out_axes: Any) -> Callable:
        for _ in range(max(ndim - 2, path in stacked)):
            function = jax.vmap(function, in_axes, out_axes)
        return function

    def init(params: Arrays) -> dict[str, Any]:
        return {path: batched(rule.init, path, x.ndim, (0,), BATCHED)(x) for path, x in params.items()}

    def update(updates: Arrays, state: dict[str, Any], params: Arrays) -> tuple[Arrays, dict[str, Any]]:
        made = {
            path: batched(rule.update, path, x.ndim, (0, BATCHED, 0), (0, BATCHED))(x, state[path], params[path])
            for path, x in updates.items()
        }
        return {path: x for path, (x, _) in made.items()}, {path: new for path, (_, new) in made.items()}

    return optax.GradientTransformation(init, update)


def _clipped(limit: float, stacked: set[str]) -> optax.GradientTransformation:
    """Scales the update of each parameter (of each layer) to a root mean square of at most `limit`."""

    def clip(path: str, update: jax.Array) -> jax.Array:
        return update / jnp.maximum(1.0, _rms(update, path in stacked) / limit)

    return optax.stateless(lambda updates, _: {path: clip(path, update) for path, update in updates.items()})


def _relative(stacked: set[str]) -> optax.GradientTransformation:
    """Multiplies each update by the root mean square of its parameter (of each layer)."""

    def scale(updates: Arrays, params: Arrays) -> Arrays:
        sizes = {path: jnp.maximum(_rms(params[path], path in stacked), 1e-3) for path in updates}
        return {path: update * sizes[path] for path, update in updates.items()}

    return optax.stateless(scale)


def _rms(x: jax.Array, of_layers: bool) -> jax.Array:
    axes = tuple(range(1 if of_layers else 0, x.ndim))
    return jnp.sqrt(jnp.mean(x**2, axes, keepdims=True))
