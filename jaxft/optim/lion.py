"""Lion (Chen et al. 2023, algorithm 2): the sign of a momentum, with rates 3 to 10 times smaller than AdamW's."""

from dataclasses import field

import optax

from jaxft.config.component import ARGUMENT, config
from jaxft.config.ranges import NonNegative, ProperFraction
from jaxft.optim.parameters import Parameters, decay_mask


@config
class Lion:
    """Sign momentum with decoupled weight decay."""

    b1: ProperFraction = 0.9  # weight of the momentum in an update
    b2: ProperFraction = 0.99  # decay rate of the momentum
    decay: NonNegative = field(default=0.1, metadata=ARGUMENT)  # weight decay, times the learning rate

    def make(self, lr: optax.Schedule, parameters: Parameters) -> optax.GradientTransformation:
        """See optim/base.py."""
        return optax.lion(lr, self.b1, self.b2, weight_decay=self.decay, mask=decay_mask(parameters))
