"""Learning-rate schedules: the rate of update 0, 1, ... of a run of `total` updates.

`warmup` is a number of updates (1 or more) or a fraction of `total` (less than 1). The rate of update t is
lr * t / warmup while t < warmup. A decay reaches `end` times the peak one update after the last, so that the last
update has a rate above that.
"""

from collections.abc import Callable
from typing import Protocol

import jax.numpy as jnp
import optax

from jaxft.config.component import config
from jaxft.config.ranges import Fraction, NonNegative


class Schedule(Protocol):
    """A `@config` class."""

    def make(self, lr: float, total: int) -> optax.Schedule:
        """The rates of a run of `total` updates, with peak `lr`."""


@config
class Linear:
    """Warm-up, then linear decay to `end` times the peak."""

    warmup: NonNegative = 0.1  # updates (1 or more), or a share of the run (less than 1)
    end: Fraction = 0.0  # final rate, as a share of the peak

    def make(self, lr: float, total: int) -> optax.Schedule:
        """See Schedule."""
        return _warmed(lr, self.warmup, total, lambda lr, rest: optax.linear_schedule(lr, lr * self.end, rest))


@config
class Cosine:
    """Warm-up, then half a cosine down to `end` times the peak (Loshchilov and Hutter 2017, eq. 5, one cycle)."""

    warmup: NonNegative = 0.1  # updates (1 or more), or a share of the run (less than 1)
    end: Fraction = 0.0  # final rate, as a share of the peak

    def make(self, lr: float, total: int) -> optax.Schedule:
        """See Schedule."""
        return _warmed(lr, self.warmup, total, lambda lr, rest: optax.cosine_decay_schedule(lr, rest, self.end))


@config
class Constant:
    """Warm-up, then a constant rate."""

    warmup: NonNegative = 0.0  # updates (1 or more), or a share of the run (less than 1)

    def make(self, lr: float, total: int) -> optax.Schedule:
        """See Schedule."""
        return _warmed(lr, self.warmup, total, lambda lr, rest: optax.constant_schedule(lr))


@config
class InverseSqrt:
    """Warm-up, then decay with the inverse square root of the updates (Vaswani et al. 2017, eq. 3)."""

    warmup: NonNegative = 0.1  # updates (1 or more), or a share of the run (less than 1)

    def make(self, lr: float, total: int) -> optax.Schedule:
        """See Schedule."""
        warm = max(1, warmup_updates(self.warmup, total))
        return _warmed(
            lr, self.warmup, total, lambda lr, rest: lambda t: lr * jnp.sqrt(warm / (warm + jnp.maximum(t, 0)))
        )


@config
class WSD:
    """Warm-up, a constant rate, then linear decay over the last `decay` (warmup-stable-decay, Hu et al. 2024)."""

    warmup: NonNegative = 0.1  # updates (1 or more), or a share of the run (less than 1)
    decay: NonNegative = 0.1  # the last updates, counted as in warmup
    end: Fraction = 0.0  # final rate, as a share of the peak

    def make(self, lr: float, total: int) -> optax.Schedule:
        """See Schedule."""
        updates = warmup_updates(self.decay, total)

        def after(lr: float, rest: int) -> optax.Schedule:
            stable = max(rest - updates, 0)
            decay = optax.linear_schedule(lr, lr * self.end, max(min(updates, rest), 1))
            return optax.join_schedules([optax.constant_schedule(lr), decay], [stable])

        return _warmed(lr, self.warmup, total, after)


def warmup_updates(amount: float, total: int) -> int:
    """A number of updates; below 1, a fraction of `total`, rounded up."""
    return int(amount) if amount >= 1 else -int(-amount * total // 1)


def _warmed(lr: float, warmup: float, total: int, after: Callable[[float, int], optax.Schedule]) -> optax.Schedule:
    warm = warmup_updates(warmup, total)
    rest = after(lr, max(total - warm, 1))
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warm), rest], [warm]) if warm else rest
