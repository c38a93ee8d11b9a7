"""AdamW (Loshchilov and Hutter 2019, algorithm 2)."""

from dataclasses import field

import optax

from jaxft.config.component import ARGUMENT, config
from jaxft.config.ranges import Epsilon, NonNegative, ProperFraction
from jaxft.optim.parameters import Parameters, decay_mask


@config
class AdamW:
    """Adam with decoupled weight decay."""

    b1: ProperFraction = 0.9  # decay rate of the mean of gradients
    b2: ProperFraction = 0.999  # decay rate of the mean of their squares
    eps: Epsilon = 1e-8  # added to the root of the mean square
    decay: NonNegative = field(default=0.01, metadata=ARGUMENT)  # weight decay, times the learning rate

    def make(self, lr: optax.Schedule, parameters: Parameters) -> optax.GradientTransformation:
        """See optim/base.py."""
        return optax.adamw(lr, self.b1, self.b2, self.eps, weight_decay=self.decay, mask=decay_mask(parameters))
