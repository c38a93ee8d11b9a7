"""Adafactor (Shazeer and Stern 2018), in Optax's form: second moments kept as row and column means."""

import jax.numpy as jnp
import optax

from jaxft.configurable import config


@config
class Adafactor:
    decay: float = 0.0
    min_dim_factored: int = 128  # smaller matrices keep the full second moment
    clip_update: float = 1.0  # root mean square of an update, at most

    def make(self, lr, decay_mask, stacked):
        # Not `optax.adafactor`: it does not multiply the decay by the rate.
        return optax.chain(
            optax.scale_by_factored_rms(min_dim_size_to_factor=self.min_dim_factored),
            _clipped(self.clip_update, stacked),
            optax.add_decayed_weights(self.decay, decay_mask),
            optax.scale_by_learning_rate(lr),
        )


def _clipped(limit: float, stacked: set[str]) -> optax.GradientTransformation:
    """Each parameter's update with a root mean square of at most `limit`; of a stacked array, each layer's."""

    def clip(path, update):
        axes = tuple(range(1 if path in stacked else 0, update.ndim))
        rms = jnp.sqrt(jnp.mean(update**2, axes, keepdims=True))
        return update / jnp.maximum(1.0, rms / limit)

    return optax.stateless(lambda updates, _: {path: clip(path, update) for path, update in updates.items()})
