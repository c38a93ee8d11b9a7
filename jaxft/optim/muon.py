"""Muon (Jordan et al. 2024): orthogonalised momentum for the kernels of the layers, AdamW for all other parameters."""

from dataclasses import field

import optax
from optax.contrib import MuonDimensionNumbers, muon

from jaxft.config.component import ARGUMENT, config
from jaxft.config.ranges import NonNegative, Positive, ProperFraction
from jaxft.optim.parameters import Parameters, decay_mask


@config
class Muon:
    """With `rms` 0.2, updates are as large as AdamW's (Liu et al. 2025, eq. 4), so that AdamW's rates apply."""

    momentum: ProperFraction = 0.95  # of the kernels
    decay: NonNegative = field(default=0.01, metadata=ARGUMENT)  # weight decay, times the learning rate
    rms: Positive = 0.2  # root mean square of an update of a kernel
    b1: ProperFraction = 0.9  # of AdamW, for all other parameters
    b2: ProperFraction = 0.999  # of AdamW

    def make(self, lr: optax.Schedule, parameters: Parameters) -> optax.GradientTransformation:
        """See optim/base.py."""
        matrices = {path for path, one in parameters.items() if one.stacked and one.role == "kernel"}
        decays = decay_mask(parameters)
        # A stacked kernel is (layers, inputs, outputs) or (layers, experts, inputs, outputs): a batch of matrices.
        axes = MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
        muons = muon(
            lr,
            beta=self.momentum,
            weight_decay=self.decay,
            consistent_rms=self.rms,
            muon_weight_dimension_numbers=lambda params: {path: axes if path in matrices else None for path in params},
        )
        # The AdamW inside `muon` would decay biases and norms as well.
        rest = optax.adamw(
            lr,
            self.b1,
            self.b2,
            weight_decay=self.decay,
            mask=lambda params: {path: decays[path] for path in params},
        )
        return optax.partition(
            {"matrix": muons, "rest": rest},
            lambda params: {path: "matrix" if path in matrices else "rest" for path in params},
        )
