"""Learning-rate schedules: the rate of update number 0, 1, ... of a run of `total` updates.

`warmup` is a number of updates (1 or more) or a share of them (less than 1). The rate of update t is lr * t / warmup
while t < warmup. What falls to `end` times the peak gets there one update after the last, so that every update counts.
"""

import jax.numpy as jnp
import optax

from jaxft.config.component import config
from jaxft.config.ranges import Fraction, NonNegative


@config
class Linear:
    """Warm up, then fall in a line to `end` times the peak."""

    warmup: NonNegative = 0.1
    end: Fraction = 0.0

    def make(self, lr: float, total: int) -> optax.Schedule:
        return _warmed(lr, self.warmup, total, lambda lr, rest: optax.linear_schedule(lr, lr * self.end, rest))


@config
class Cosine:
    """Warm up, then half a cosine down to `end` times the peak (Loshchilov and Hutter 2017, eq. 5, one cycle)."""

    warmup: NonNegative = 0.1
    end: Fraction = 0.0

    def make(self, lr: float, total: int) -> optax.Schedule:
        return _warmed(lr, self.warmup, total, lambda lr, rest: optax.cosine_decay_schedule(lr, rest, self.end))


@config
class Constant:
    """Warm up, then stay."""

    warmup: NonNegative = 0.0

    def make(self, lr: float, total: int) -> optax.Schedule:
        return _warmed(lr, self.warmup, total, lambda lr, rest: optax.constant_schedule(lr))


@config
class InverseSqrt:
    """Warm up, then fall with the square root of the updates (Vaswani et al. 2017, eq. 3)."""

    warmup: NonNegative = 0.1

    def make(self, lr: float, total: int) -> optax.Schedule:
        warm = max(1, warmup_updates(self.warmup, total))
        return _warmed(
            lr, self.warmup, total, lambda lr, rest: lambda t: lr * jnp.sqrt(warm / (warm + jnp.maximum(t, 0)))
        )


@config
class WSD:
    """Warm up, stay, and fall in a line during the last `decay` of the run (warm-up, stable, decay: Hu et al. 2024)."""

    warmup: NonNegative = 0.1
    decay: NonNegative = 0.1
    end: Fraction = 0.0

    def make(self, lr: float, total: int) -> optax.Schedule:
        falling = warmup_updates(self.decay, total)

        def after(lr, rest):
            stable = max(rest - falling, 0)
            fall = optax.linear_schedule(lr, lr * self.end, max(min(falling, rest), 1))
            return optax.join_schedules([optax.constant_schedule(lr), fall], [stable])

        return _warmed(lr, self.warmup, total, after)


def warmup_updates(amount: float, total: int) -> int:
    """A duration given as a number of updates, or below 1 as a share of `total` (rounded up)."""
    return int(amount) if amount >= 1 else -int(-amount * total // 1)


def _warmed(lr, warmup, total, after) -> optax.Schedule:
    warm = warmup_updates(warmup, total)
    rest = after(lr, max(total - warm, 1))
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warm), rest], [warm]) if warm else rest
