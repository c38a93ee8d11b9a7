"""Run the layers: runs and repeating patterns of equal layers are stacked arrays, and `lax.scan` loops over them.

The layout is always stacked. `plan` cuts the layers into segments: layer i is row `row` of block `place` of a segment.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.layers.attention import Attention, CrossAttention, plan_attention
from jaxft.models.layers.basic import fold_key
from jaxft.models.layers.context import Carry, Context, flatten_scan, merge
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
    """A pattern of `period` layers, repeated `repeats` times, from layer `start` on."""

    start: int
    repeats: int
    period: int

    def layer(self, row: int, place: int) -> int:
        return self.start + row * self.period + place


def plan(kinds: list) -> tuple[Segment, ...]:
    """Cut a list of hashable layer kinds into the fewest scans: each segment is a repeated pattern.

    Two layers are of one kind if they are built alike and train alike; twelve equal layers give one segment.
    """
    segments, start = [], 0
    while start < len(kinds):
        period, repeats = _best_pattern(kinds[start:])
        segments.append(Segment(start, repeats, period))
        start += period * repeats
    return tuple(segments)


def _best_pattern(kinds) -> tuple[int, int]:
    """The (period, repeats) at the front of `kinds` that saves most layers; among equals, the shortest period."""
    best = (1, 1)
    for period in range(1, len(kinds) // 2 + 1):
        repeats = 1
        while kinds[repeats * period : (repeats + 1) * period] == kinds[:period]:
            repeats += 1
        if (repeats - 1) * period > (best[1] - 1) * best[0]:
            best = (period, repeats)
    return best


class Block(nnx.Module):
    """One layer, with norms in the places of the spec: x + attn(x), in a decoder x + cross(x), then x + mlp(x).

    A parallel layer is x + attn(x) + mlp(x). A side branch takes the layer's input and is added to its output.
    """

    def __init__(self, layer: Layer, width: int):
        self.layer = layer
        self.attn = layer.attn.build(width)
        self.cross = layer.cross.build(width) if layer.cross else nnx.data(None)
        self.mlp = layer.mlp.build(width)
        self.side_branch = layer.side_branch.build(width) if layer.side_branch else nnx.data(None)
        self.norms = nnx.Dict({place: layer.norm.build(width) for place in sorted(layer.norms)})

    def __call__(self, x: jax.Array, context: Context, key: jax.Array | None) -> tuple[jax.Array, Carry]:
        """From (batch, s, width) to (batch, t, width), the results of the context's t queries."""
        entered, normed = x, self.norm("attn_in", x)
        y, carry = self.attn(normed, context, fold_key(key, 0))
        y, x = self.added("attn_out", y, fold_key(key, 1)), context.gather(x)
        if self.layer.parallel:
            read = self.norm("mlp_in", x) if "mlp_in" in self.norms else context.gather(normed)
            z, of_mlp = self.mlp(read, context, fold_key(key, 3))
            x = x + y + self.added("mlp_out", z, fold_key(key, 2))
        else:
            x = self.norm("attn_res", x + y)
            if self.cross is not None and context.memory is not None:
                y, _ = self.cross(self.norm("cross_in", x), context, fold_key(key, 4))
                x = self.norm("cross_res", x + self.added("cross_out", y, fold_key(key, 5)))
            z, of_mlp = self.mlp(self.norm("mlp_in", x), context, fold_key(key, 3))
            x = self.norm("mlp_res", x + self.added("mlp_out", z, fold_key(key, 2)))
        if self.side_branch is not None:
            y, _ = self.side_branch(entered, context, fold_key(key, 6))
            x = self.norm("side_branch_res", x + context.gather(y))
        return shard(x, "batch", "length", None), merge([carry, of_mlp])

    def repeat(self, x: jax.Array, context: Context, last: Context, key: jax.Array | None) -> tuple[jax.Array, Carry]:
        """The layer `num_repeats` times, the last time with the context `last`."""
        count, carries = self.layer.num_repeats, []
        if count > 1:

            def run(x, number):
                return self(x, context, fold_key(key, number))

            x, of_runs = jax.lax.scan(run, x, jnp.arange(count - 1))
            carries, key = [flatten_scan(of_runs)], fold_key(key, count - 1)
        x, carry = self(x, last, key)
        carry = merge([*carries, carry])
        return x, carry._replace(hidden=x[None]) if context.collect.hidden else carry

    def added(self, place: str, y: jax.Array, key: jax.Array | None) -> jax.Array:
        """What a sublayer with the output y adds to the residual stream."""
        y = dropout(self.norm(place, y), self.layer.dropout if place in self.layer.dropout_places else 0.0, key)
        return y if self.layer.residual_multiplier == 1.0 else y * jnp.asarray(self.layer.residual_multiplier, y.dtype)

    def norm(self, place: str, x: jax.Array) -> jax.Array:
        """x, normed if the layer has a norm in this place."""
        return self.norms[place](x) if place in self.norms else x


class Stack(nnx.Module):
    """All layers of a backbone, cut into `segments` (`plan`)."""

    def __init__(self, layers: tuple[Layer, ...], width: int, segments: tuple[Segment, ...], remat: str, unroll: int):
        self.parts, self.plan, self.remat, self.unroll = layers, segments, remat, unroll
        self.segments = nnx.List(
            nnx.List(stacked(Block(layers[s.start + place], width), s.repeats) for place in range(s.period))
            for s in segments
        )

    def __call__(
        self, x: jax.Array, context: Context, key: jax.Array | None, at: jax.Array | None = None
    ) -> tuple[jax.Array, Carry]:
        """(the last layer's result, the Carry of all layers).

        With `at` (batch, k) the result is that of these columns only; the last layer must be a segment of its own.
        """
        context = plan_attention(context, _attentions(self.parts, context))
        last = context
        if at is not None:
            last = context.select(at)
            last = plan_attention(last, _attentions(self.parts[-1:], last))
        carries = []
        for number, (segment, blocks) in enumerate(zip(self.plan, self.segments, strict=True)):
            final = last if number == len(self.plan) - 1 else context
            x, carry = self._run(x, segment, blocks, context, final, key)
            carries.append(carry)
        return x, merge(carries)

    def _run(self, x, segment: Segment, blocks, context: Context, final: Context, key):
        def body(x, row):
            (first, blocks), carries = row, []
            for place, block in enumerate(blocks):
                # The key depends on the layer's number only: cut in other places, the stack draws the same masks.
                x, carry = block.repeat(x, context, final, fold_key(key, first + place))
                carries.append(carry)
            return x, merge(carries)

        if self.remat != "none":
            body = jax.checkpoint(body, policy=POLICIES[self.remat])
        if segment.repeats == 1:  # no scan, whose carry could not change its shape
            return body(x, (segment.start, jax.tree.map(lambda stacked: stacked[0], blocks)))
        numbers = segment.start + segment.period * jnp.arange(segment.repeats)
        x, carry = jax.lax.scan(body, x, (numbers, blocks), unroll=self.unroll or segment.repeats)
        return x, flatten_scan(carry)


def _attentions(layers: tuple[Layer, ...], context: Context) -> list[Attention]:
    """The attention parts that these layers use."""
    parts: list[Attention] = [layer.attn for layer in layers]
    if context.memory is not None:
        parts += [layer.cross for layer in layers if isinstance(layer.cross, CrossAttention)]
    return parts


def stacked(module: nnx.Module, repeats: int) -> nnx.Module:
    """The same abstract module with a leading `layers` axis of `repeats` on every parameter."""

    def one(variable):
        value = variable.get_value()
        lead = jax.ShapeDtypeStruct((repeats, *value.shape), value.dtype)
        metadata = {name: variable.get_metadata(name) for name in ("role", "init", "fixed", "origin", "lr_factor")}
        return nnx.Param(lead, axes=("layers", *variable.get_metadata("axes")), **metadata)

    return jax.tree.map(one, module, is_leaf=lambda node: isinstance(node, nnx.Variable))
