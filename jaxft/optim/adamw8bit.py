"""AdamW with moments in eight bits (Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization", section
2)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxft.config.component import config
from jaxft.config.ranges import Count, Epsilon, NonNegative, ProperFraction
from jaxft.optim.parameters import Parameters, decay_mask
from jaxft.quantization.dynamic_map import PLACES, dynamic_map, nearest_codes
from jaxft.quantization.rounded_product import rounded_product

BLOCK = 256  # numbers that share a scale
Arrays = dict[str, jax.Array]  # by stored path


@config
class AdamW8bit:
    """AdamW whose two moments take 2.03 bytes a parameter instead of 8: bitsandbytes' AdamW8bit."""

    b1: ProperFraction = 0.9  # decay rate of the mean of gradients
    b2: ProperFraction = 0.999  # decay rate of the mean of their squares
    eps: Epsilon = 1e-8  # added to the root of the mean square
    decay: NonNegative = 0.01  # weight decay, times the learning rate
    min_8bit_size: Count = 4096  # smaller parameters (of a layer) have moments in float32

    def make(self, lr: optax.Schedule, parameters: Parameters) -> optax.GradientTransformation:
        """See optim/base.py."""
        stacked = {path for path, parameter in parameters.items() if parameter.stacked}
        return optax.chain(
            _adam8bit(self, stacked),
            optax.add_decayed_weights(self.decay, decay_mask(parameters)),
            optax.scale_by_learning_rate(lr),
        )


class Adam8bitState(NamedTuple):
    """Of each parameter: `mean` and `square`, codes in its shape, or float32 if it is small; `mean_absmax` and
    `square_absmax`, float32 (layers, blocks), or (blocks) if it is not stacked, not of small ones."""

    number: jax.Array  # int32: updates
    mean: Arrays
    square: Arrays
    mean_absmax: Arrays
    square_absmax: Arrays


def _adam8bit(how: AdamW8bit, stacked: set[str]) -> optax.GradientTransformation:
    """Adam's direction (Kingma and Ba 2015, algorithm 1), from moments that are held in eight bits between updates."""

    def is_small(path: str, x: Any) -> bool:
        return math.prod(x.shape[path in stacked :]) < how.min_8bit_size

    def init(params: Arrays) -> Adam8bitState:
        kinds = {path: jnp.float32 if is_small(path, x) else jnp.uint8 for path, x in params.items()}
        moments = [{path: jnp.zeros(x.shape, kinds[path]) for path, x in params.items()} for _ in range(2)]
        scales = [
            {
                path: jnp.zeros(_scales_shape(x.shape, path in stacked))
                for path, x in params.items()
                if not is_small(path, x)
            }
            for _ in range(2)
        ]
        return Adam8bitState(jnp.zeros((), jnp.int32), *moments, *scales)

    def update(updates: Arrays, state: Adam8bitState, params: Arrays | None = None) -> tuple[Arrays, Adam8bitState]:
        number = state.number + 1
        made, mean, square = {}, dict(state.mean), dict(state.square)
        mean_absmax, square_absmax = dict(state.mean_absmax), dict(state.square_absmax)
        for path, g in updates.items():
            m, v = mean[path], square[path]
            if path in mean_absmax:
                m = dequantize(m, mean_absmax[path], signed=True)
                v = dequantize(v, square_absmax[path], signed=False)
            m = rounded_product(how.b1, m) + (1 - how.b1) * g
            v = rounded_product(how.b2, v) + (1 - how.b2) * g * g
            root = jnp.sqrt(v) / jnp.sqrt(1 - how.b2**number)
            made[path] = m / (1 - how.b1**number) / (root + how.eps)
            mean[path], square[path] = m, v
            if path in mean_absmax:
                mean[path], mean_absmax[path] = quantize(m, path in stacked, signed=True)
                square[path], square_absmax[path] = quantize(v, path in stacked, signed=False)
        return made, Adam8bitState(number, mean, square, mean_absmax, square_absmax)

    return optax.GradientTransformation(init, update)


def _scales_shape(shape: tuple[int, ...], stacked: bool) -> tuple[int, ...]:
    return (*shape[:stacked], -(-math.prod(shape[stacked:]) // BLOCK))


def quantize(numbers: jax.Array, stacked: bool, signed: bool) -> tuple[jax.Array, jax.Array]:
    """(codes uint8 in the shape of the float32 `numbers`, scales as in Adam8bitState): bitsandbytes' quantize_blockwise
    on a CPU, of each layer if they are `stacked`, to the last bit."""
    lead, size = numbers.shape[:stacked], math.prod(numbers.shape[stacked:])
    flat = jnp.pad(numbers.reshape(*lead, size), [(0, 0)] * len(lead) + [(0, -size % BLOCK)])
    rows = flat.reshape(*lead, -1, BLOCK)
    absmax = jnp.max(jnp.abs(rows), -1)
    inverse = 1 / jnp.where(absmax == 0, 1, absmax)
    halved = (jnp.clip(rows * inverse[..., None], -1, 1) + 1) * 0.5
    # halved * (PLACES - 1) + 0.5 with one rounding; the product with a power of two has none.
    place = (halved * PLACES + 0.5) - halved
    codes = jnp.where(absmax[..., None] == 0, 0, jnp.asarray(nearest_codes(signed))[place.astype(jnp.int32)])
    return codes.astype(jnp.uint8).reshape(*lead, -1)[..., :size].reshape(numbers.shape), absmax


def dequantize(codes: jax.Array, absmax: jax.Array, signed: bool) -> jax.Array:
    """The float32 numbers of `quantize`."""
    lead = absmax.shape[:-1]
    size = math.prod(codes.shape[len(lead) :])
    spread = jnp.repeat(absmax, BLOCK, -1, total_repeat_length=absmax.shape[-1] * BLOCK)[..., :size]
    return jnp.asarray(dynamic_map(signed))[codes] * spread.reshape(codes.shape)
