"""Run the layers: runs and repeating patterns of equal layers are stacked arrays that one `lax.scan` walks.

There is one layout, always stacked. `Plan` translates between a layer's number and its place in the stacked arrays:
layer i is row `row` of block `place` of segment `segment`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.layers.attention import Context
from jaxft.models.layers.basic import fold_key, read
from jaxft.models.layers.dropout import dropout
from jaxft.models.spec import Layer
from jaxft.parallel.mesh import shard

POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclass(frozen=True)
class Segment:
    """`repeats` times a pattern of `period` layers, beginning at layer `start`."""

    start: int
    repeats: int
    period: int

    def layer(self, row: int, place: int) -> int:
        return self.start + row * self.period + place


def plan(kinds: list) -> tuple[Segment, ...]:
    """Cut a list of hashable layer kinds into the fewest scans: each segment is a pattern, repeated.

    Two layers are of one kind when they are built alike and train alike; twelve equal layers give one segment.
    """
    segments, start = [], 0
    while start < len(kinds):
        period, repeats = _best_pattern(kinds[start:])
        segments.append(Segment(start, repeats, period))
        start += period * repeats
    return tuple(segments)


def _best_pattern(kinds) -> tuple[int, int]:
    """The (period, repeats) at the front of `kinds` that saves most layers; of equals, the shortest period."""
    best = (1, 1)
    for period in range(1, len(kinds) // 2 + 1):
        repeats = 1
        while kinds[repeats * period : (repeats + 1) * period] == kinds[:period]:
            repeats += 1
        if (repeats - 1) * period > (best[1] - 1) * best[0]:
            best = (period, repeats)
    return best


class Block(nnx.Module):
    """One layer, with norms where the spec puts them: x -> x + attn(x), of a decoder x -> x + cross(x), then
    x -> x + mlp(x).

    A parallel one: x -> x + attn(x) + mlp(x). A side branch takes the layer's input and is added to its output.
    """

    def __init__(self, layer: Layer, width: int):
        self.layer = layer
        self.attn = layer.attn.build(width)
        self.cross = layer.cross.build(width) if layer.cross else nnx.data(None)
        self.mlp = layer.mlp.build(width)
        self.beside = layer.beside.build(width) if layer.beside else nnx.data(None)
        self.norms = nnx.Dict({place: layer.norm.build(width) for place in sorted(layer.norms)})

    def __call__(self, x, context: Context, key, at=None):
        """(batch, t, width); with `at` (batch, slots) the results at these positions only, (batch, slots, width)."""
        entered, normed = x, self.norm("attn_in", x)
        y = self.added("attn_out", self.attn(normed, context, fold_key(key, 0), at), fold_key(key, 1))
        x = read(x, at)
        if self.layer.parallel:
            seen = self.norm("mlp_in", x) if "mlp_in" in self.norms else read(normed, at)
            x = x + y + self.added("mlp_out", self.mlp(seen, context, fold_key(key, 3), at), fold_key(key, 2))
        else:
            x = self.norm("attn_res", x + y)
            if self.cross is not None and context.memory is not None:
                y = self.cross(self.norm("cross_in", x), context, fold_key(key, 4), at)
                x = self.norm("cross_res", x + self.added("cross_out", y, fold_key(key, 5)))
            y = self.mlp(self.norm("mlp_in", x), context, fold_key(key, 3), at)
            x = self.norm("mlp_res", x + self.added("mlp_out", y, fold_key(key, 2)))
        if self.beside is not None:
            x = self.norm("beside_res", x + read(self.beside(entered, context, fold_key(key, 6)), at))
        return shard(x, "batch", None, None)

    def repeated(self, x, context: Context, key, at=None):
        """The layer as often as it runs; where the result is wanted at some positions only, that is its last run."""
        if (num_repeats := self.layer.num_repeats) == 1:
            return self(x, context, key, at)

        def run(x, number):
            return self(x, context, None if key is None else fold_key(key, number)), None

        x, _ = jax.lax.scan(run, x, jnp.arange(num_repeats - 1))
        return self(x, context, fold_key(key, num_repeats - 1), at)

    def added(self, place: str, y, key):
        """What a sublayer adds to the residual sum."""
        y = dropout(self.norm(place, y), self.layer.dropout if place in self.layer.dropout_places else 0.0, key)
        return y if self.layer.residual_multiplier == 1.0 else y * jnp.asarray(self.layer.residual_multiplier, y.dtype)

    def norm(self, place: str, x):
        return self.norms[place](x) if place in self.norms else x


class Stack(nnx.Module):
    """All layers of a backbone."""

    def __init__(self, layers: tuple[Layer, ...], width: int, segments: tuple[Segment, ...], remat: str, unroll: int):
        self.parts, self.plan, self.remat, self.unroll = layers, segments, remat, unroll
        self.segments = nnx.List(
            nnx.List(stacked(Block(layers[s.start + place], width), s.repeats) for place in range(s.period))
            for s in segments
        )

    def __call__(self, x, context: Context, key, at=None, every=False):
        """With `at` (batch, slots), which needs a last layer of its own, the results at these positions only.

        With `every` a list of arrays (n, batch, t, width) beside it, which hold the results of all layers. What the
        layers' experts count is summed up in the context's routes.
        """
        states, routes = [], context.routes
        for part in self.parts:
            context.prepare(part.attn)
            if part.cross is not None and context.memory is not None:
                context.prepare(part.cross)
        for segment, blocks in zip(self.plan, self.segments, strict=True):
            last = segment.start + segment.period * segment.repeats == len(self.parts)
            x, (of_segment, found) = self._run(x, segment, blocks, context, key, at if last else None, every)
            states.append(of_segment)
            routes = None if routes is None else [*routes, found]
        context.routes = routes
        return (x, states) if every else x

    def _run(self, x, segment: Segment, blocks, context: Context, key, at, every):
        counts = context.routes is not None

        def body(x, row):
            (first, blocks), states = row, []
            context.routes = [] if counts else None  # of these layers: what a loop's body finds must leave it with x
            for place, block in enumerate(blocks):
                # The key depends on the layer's number alone: cut elsewhere, the stack draws the same masks.
                x = block.repeated(x, context, None if key is None else fold_key(key, first + place), at)
                states.append(x)
            return x, (jnp.stack(states) if every else None, sum(context.routes) if counts else None)

        if self.remat != "none":
            body = jax.checkpoint(body, policy=POLICIES[self.remat])
        if segment.repeats == 1:  # no loop, which could not change the shape of x either
            return body(x, (segment.start, jax.tree.map(lambda stacked: stacked[0], blocks)))
        numbers = segment.start + segment.period * jnp.arange(segment.repeats)
        x, (states, found) = jax.lax.scan(body, x, (numbers, blocks), unroll=self.unroll or segment.repeats)
        states = states.reshape(-1, *states.shape[2:]) if every else None
        return x, (states, jnp.sum(found, 0) if counts else None)


def stacked(module, repeats: int):
    """The same abstract module with a leading `layers` axis of `repeats` on every parameter."""

    def one(variable):
        value = variable.get_value()
        lead = jax.ShapeDtypeStruct((repeats, *value.shape), value.dtype)
        metadata = {name: variable.get_metadata(name) for name in ("role", "init", "fixed")}
        return nnx.Param(lead, axes=("layers", *variable.get_metadata("axes")), **metadata)

    return jax.tree.map(one, module, is_leaf=lambda node: isinstance(node, nnx.Variable))
