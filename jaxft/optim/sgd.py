"""Stochastic gradient descent, with momentum and decoupled weight decay where they are not 0."""

import optax

from jaxft.config.component import config
from jaxft.config.ranges import NonNegative, ProperFraction
from jaxft.optim.parameters import Parameters, decay_mask
from jaxft.problems import truncated_repr


@config
class SGD:
    momentum: ProperFraction = 0.0
    nesterov: str = "off"  # "on": Nesterov's momentum
    decay: NonNegative = 0.0

    def problems(self):
        return (
            []
            if self.nesterov in ("on", "off")
            else [f"nesterov is {truncated_repr(self.nesterov)}, expected on or off"]
        )

    def make(self, lr, parameters: Parameters):
        parts = [optax.trace(self.momentum, self.nesterov == "on")] if self.momentum else []
        parts += [optax.add_decayed_weights(self.decay, decay_mask(parameters))] if self.decay else []
        return optax.chain(*parts, optax.scale_by_learning_rate(lr))
