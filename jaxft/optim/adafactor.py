"""Adafactor (Shazeer and Stern 2018), in Optax's form: second moments kept as row and column means."""

import jax
import jax.numpy as jnp
import optax

from jaxft.config.component import config
from jaxft.config.ranges import Count, NonNegative, Positive
from jaxft.optim.parameters import Parameters, decay_mask

BATCHED = optax.FactoredState(count=None, v_row=0, v_col=0, v=0)  # axes of a batch; the count of steps is one for all


@config
class Adafactor:
    decay: NonNegative = 0.0
    min_dim_factored: Count = 128  # smaller matrices keep the full second moment
    clip_update: Positive = 1.0  # root mean square of an update, at most
    relative: bool = False  # rates are shares of each parameter's root mean square, 0.001 at least (section 8)

    def make(self, lr, parameters: Parameters):
        stacked = {path for path, parameter in parameters.items() if parameter.stacked}
        # Not `optax.adafactor`: it does not multiply the decay by the rate.
        return optax.chain(
            _factored(self.min_dim_factored, stacked),
            _clipped(self.clip_update, stacked),
            _relative(stacked) if self.relative else optax.identity(),
            optax.add_decayed_weights(self.decay, decay_mask(parameters)),
            optax.scale_by_learning_rate(lr),
        )


def _factored(smallest: int, stacked: set[str]) -> optax.GradientTransformation:
    """Factored second moments of each matrix by itself: the last two axes of an array, what leads being a batch.

    Optax alone takes the two longest axes, of which one may be that of the layers: of norm scales, which are no
    matrices, or of a model with more layers than a kernel has columns.
    """
    rule = optax.scale_by_factored_rms(min_dim_size_to_factor=smallest)

    def batched(function, path: str, ndim: int, takes: tuple, gives):
        for _ in range(max(ndim - 2, path in stacked)):
            function = jax.vmap(function, takes, gives)
        return function

    def init(params):
        return {path: batched(rule.init, path, x.ndim, (0,), BATCHED)(x) for path, x in params.items()}

    def update(updates, state, params):
        made = {
            path: batched(rule.update, path, x.ndim, (0, BATCHED, 0), (0, BATCHED))(x, state[path], params[path])
            for path, x in updates.items()
        }
        return {path: x for path, (x, _) in made.items()}, {path: new for path, (_, new) in made.items()}

    return optax.GradientTransformation(init, update)


def _clipped(limit: float, stacked: set[str]) -> optax.GradientTransformation:
    """Each parameter's update with a root mean square of at most `limit`; of a stacked array, each layer's."""

    def clip(path, update):
        return update / jnp.maximum(1.0, _rms(update, path in stacked) / limit)

    return optax.stateless(lambda updates, _: {path: clip(path, update) for path, update in updates.items()})


def _relative(stacked: set[str]) -> optax.GradientTransformation:
    """Each update times the root mean square of its parameter; of a stacked array, of each layer's."""

    def scale(updates, params):
        sizes = {path: jnp.maximum(_rms(params[path], path in stacked), 1e-3) for path in updates}
        return {path: update * sizes[path] for path, update in updates.items()}

    return optax.stateless(scale)


def _rms(x, of_layers: bool):
    axes = tuple(range(1 if of_layers else 0, x.ndim))
    return jnp.sqrt(jnp.mean(x**2, axes, keepdims=True))
