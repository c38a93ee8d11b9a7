"""Mixture of experts: a router sends each token through a few of many MLPs.

Letters: b batch, t length, d width, e experts, k experts of a token, f hidden width of an expert, n = b t k.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.layers.activations import ACTIVATIONS, known_activation
from jaxft.models.layers.basic import Linear, param
from jaxft.models.layers.context import Carry, Context, RouterStats
from jaxft.models.layers.precision import upcast
from jaxft.models.layers.tokens import Tokens
from jaxft.parallel.mesh import placement


@dataclass(frozen=True)
class Experts:
    """`count` gated MLPs, of which the router chooses `chosen` per token (Shazeer et al. 2017, eq. 1).

    The result is the sum of the chosen ones' results, weighted by the router's softmax over all experts, or if `normed`
    over the chosen ones. No token is dropped.
    """

    count: int
    chosen: int
    hidden: int
    act: str
    normed: bool = True
    bias: bool = False  # in the router and in each expert's linear maps
    gate_fn: Callable | None = None  # (gate, up) -> input of `down`; None: act(gate) * up

    def build(self, width: int) -> "ExpertsLayer":
        return ExpertsLayer(self, width)


def read_router_aux_coef(c: ConfigReader) -> float:
    """Spec.router_aux_coef: transformers adds the load balancing loss only if it also returns the router's logits."""
    weight = c.get("router_aux_loss_coef", 0.0)
    return weight if c.get("output_router_logits", False) else 0.0


class Router(Linear):
    """A linear map that scores experts; it has no adapters."""

    adaptable = False


class ExpertLinear(nnx.Module):
    """A linear map for each expert."""

    def __init__(self, part: Experts, inputs: int, outputs: int, axes: tuple[str, str]):
        self.kernel = param((part.count, inputs, outputs), ("experts", *axes), "kernel")
        self.bias = param((part.count, outputs), ("experts", axes[1]), "bias", "zeros") if part.bias else nnx.data(None)

    def arrays(self, dtype: DTypeLike) -> tuple[jax.Array, jax.Array | None]:
        """The kernel in `dtype`; the bias as it is stored, since tokens look it up (models/layers/lookup.py)."""
        return self.kernel[...].astype(dtype), None if self.bias is None else self.bias[...]


class ExpertMLPs(nnx.Module):
    """The experts' own MLPs."""

    def __init__(self, part: Experts, width: int):
        self.gate = ExpertLinear(part, width, part.hidden, ("embed", "mlp"))
        self.up = ExpertLinear(part, width, part.hidden, ("embed", "mlp"))
        self.down = ExpertLinear(part, part.hidden, width, ("mlp", "embed"))


class ExpertsLayer(nnx.Module):
    def __init__(self, part: Experts, width: int):
        self.part, act = part, ACTIVATIONS[known_activation(part.act)]
        self.gate_fn = part.gate_fn or (lambda gate, up: act(gate) * up)
        self.router = Router(width, part.count, ("embed", None), part.bias)
        self.experts = ExpertMLPs(part, width)

    def __call__(self, x_btd: jax.Array, context: Context, key: jax.Array | None) -> tuple[jax.Array, Carry]:
        """(batch, t, width), and the router's statistics if the context collects them."""
        probs = jax.nn.softmax(upcast(self.router(x_btd)), -1)
        top, experts_btk = jax.lax.top_k(probs, self.part.chosen)
        weights = top / jnp.sum(top, -1, keepdims=True) if self.part.normed else top
        carry = Carry(router=self._stats(probs, experts_btk, context.queries) if context.collect.router else None)
        return self._experts(x_btd, experts_btk, weights.astype(x_btd.dtype)), carry

    def _stats(self, probs_bte, experts_btk, queries: Tokens) -> RouterStats:
        present = (queries.segments > 0)[..., None]
        chosen = jax.nn.one_hot(experts_btk, self.part.count).sum(-2)
        return RouterStats(*(jnp.sum(x * present, (0, 1)) for x in (chosen, probs_bte)))

    def _experts(self, x_btd, experts_btk, weights_btk):
        """The weighted sum of the chosen experts' results; of a sharded batch each device sorts its own tokens."""
        mlps = self.experts
        maps = [maps.arrays(x_btd.dtype) for maps in (mlps.gate, mlps.up, mlps.down)]
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return combine(x_btd, experts_btk, weights_btk, maps, self.gate_fn)
        rows = placement(("batch", "length", None), x_btd.shape, mesh)
        axis = placement(("mlp",), (self.part.hidden,), mesh)[0]
        bias = PartitionSpec(None, axis) if self.part.bias else None
        wide = PartitionSpec(None, None, axis), bias
        narrow = PartitionSpec(None, axis, None), bias and PartitionSpec(None, None)
        local = partial(combine, gate_fn=self.gate_fn, axis=axis)
        specs = (rows, rows, rows, [wide, wide, narrow])
        return jax.shard_map(local, in_specs=specs, out_specs=rows)(x_btd, experts_btk, weights_btk, maps)


def combine(
    x_btd: jax.Array,
    experts_btk: jax.Array,
    weights_btk: jax.Array,
    maps: Sequence[tuple[jax.Array, jax.Array | None]],
    gate_fn: Callable,
    axis: str | None = None,
) -> jax.Array:
    """(b, t, d): the weighted sum of the chosen experts' results. `maps` has (kernel, bias) of gate, up and down.

    `axis` is the mesh axis that splits the experts' hidden width, if any.
    """
    b, t, d = x_btd.shape
    chosen, count = experts_btk.shape[-1], len(maps[0][0])
    expert_n = experts_btk.reshape(-1)
    order = jnp.argsort(expert_n, stable=True)  # the tokens of one expert are contiguous
    sizes, sorted_n = jnp.bincount(expert_n, length=count).astype(jnp.int32), expert_n[order]
    x_nd = x_btd.reshape(-1, d)[order // chosen]

    def linear(x, kernel, bias):
        y = jax.lax.ragged_dot(x, kernel, sizes)
        return y if bias is None else y + bias[sorted_n].astype(y.dtype)

    gate, up, (kernel, bias) = maps
    y_nd = jax.lax.ragged_dot(gate_fn(linear(x_nd, *gate), linear(x_nd, *up)), kernel, sizes)
    if axis is not None:
        y_nd = jax.lax.psum(y_nd, axis)
    if bias is not None:  # after the sum over devices, each of which would add it
        y_nd = y_nd + bias[sorted_n].astype(y_nd.dtype)
    y_nd = y_nd[jnp.argsort(order)] * weights_btk.reshape(-1, 1)  # back in the tokens' order
    return y_nd.reshape(b * t, chosen, d).sum(1).reshape(b, t, d)
