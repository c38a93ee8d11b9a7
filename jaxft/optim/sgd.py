"""Stochastic gradient descent, with optional momentum and decoupled weight decay."""

import optax

from jaxft.config.component import config
from jaxft.config.ranges import NonNegative, ProperFraction
from jaxft.optim.parameters import Parameters, decay_mask
from jaxft.problems import truncated_repr


@config
class SGD:
    """SGD; decay is scaled by the learning rate, as in AdamW."""

    momentum: ProperFraction = 0.0  # 0.0: none
    nesterov: str = "off"  # "on": Nesterov's momentum
    decay: NonNegative = 0.0  # weight decay, times the learning rate

    def problems(self) -> list[str]:
        """What is wrong with the fields."""
        if self.nesterov in ("on", "off"):
            return []
        return [f"nesterov is {truncated_repr(self.nesterov)}, expected on or off"]

    def make(self, lr: optax.Schedule, parameters: Parameters) -> optax.GradientTransformation:
        """See optim/base.py."""
        parts = [optax.trace(self.momentum, self.nesterov == "on")] if self.momentum else []
        parts += [optax.add_decayed_weights(self.decay, decay_mask(parameters))] if self.decay else []
        return optax.chain(*parts, optax.scale_by_learning_rate(lr))
