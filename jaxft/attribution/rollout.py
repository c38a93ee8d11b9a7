"""Attributions from where attention looks, layer upon layer.

Letters: b batch, t query length, s key length, p pieces of the keys, h head width.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.attribution.settings import Settings
from jaxft.attribution.target import Target
from jaxft.attribution.text import Text
from jaxft.inference.model import LoadedModel
from jaxft.models.layers.attention import AttentionLayer, Context
from jaxft.models.model import Model
from jaxft.models.params import Params, bind


def attention_rollout(model: LoadedModel, text: Text, target: Target, settings: Settings) -> np.ndarray:
    """Float64 (tokens,), with the sum 1: what the place where the score is read has of each token.

    Of a score with two places it is their mean. It says where the model looks, not whether that raises the score.
    """
    batch = {name: values[None] for name, values in text.batch.items()}
    with jax.set_mesh(model.mesh):
        rolled = np.asarray(rollout(model.arch.spec, model.model.dtype, model.params, batch)[0], np.float64)
    return rolled[list(target.at), : len(text.tokens)].mean(0)


@partial(jax.jit, static_argnames=("spec", "dtype"))
def rollout(spec, dtype, params: Params, batch) -> jax.Array:
    """Float32 (b, t, s): the product of all layers' attention (Abnar and Zuidema 2020, section 3).

    A layer's is the mean over its heads, mixed in halves with the identity that the residual sum is.
    """
    model = bind(Model(spec, dtype=dtype), params)
    length = batch["tokens"].shape[1]
    context = Context(batch["segments"], batch["positions"])
    context.types = batch.get("types")
    context.distances = None if model.distances is None else model.distances(length)
    for part in model.layers.parts:
        context.prepare(part.attn)

    def body(carry, blocks):
        x, rolled = carry
        for block in blocks:
            for _ in range(block.layer.num_repeats):
                seen = weights(block.attn, block.norm("attn_in", x), context) + jnp.eye(length)
                rolled = seen / jnp.sum(seen, -1, keepdims=True) @ rolled
                x = block(x, context, None)
        return (x, rolled), None

    x = model.embed(batch, model.dtype, None)
    carry = x, jnp.broadcast_to(jnp.eye(length), (len(x), length, length))
    for blocks in model.layers.segments:
        carry, _ = jax.lax.scan(body, carry, blocks)
    return carry[1]


class Given(nnx.Module):
    """In the place of a linear map: what it gives, whatever comes in; or, of None, what comes in."""

    def __init__(self, values):
        self.values = nnx.data(values)

    def __call__(self, x):
        return x if self.values is None else self.values


def weights(attn: AttentionLayer, x_btd: jax.Array, context: Context) -> jax.Array:
    """Float32 (b, t, s): how much of each key a query takes, the mean over heads.

    The layer never gives its weights out, but what a query gathers from values that are 1 at one key and 0 at all
    others is that key's weight: a head's width of keys is asked for at a time. So every kind of attention will do.
    """
    part, (b, s, _) = attn.part, x_btd.shape
    one = part.clip or 1.0  # beyond which values are cut off
    pieces = -(-s // part.head_dim)
    values_psh = one * jnp.eye(s, pieces * part.head_dim).reshape(s, pieces, -1).swapaxes(0, 1)

    def gathered(values_sh):
        probe = jax.tree.map(lambda leaf: leaf, attn)  # a copy
        probe.v = Given(jnp.broadcast_to(jnp.tile(values_sh, part.kv_heads), (b, s, part.kv_heads * part.head_dim)))
        probe.o = Given(None)
        each = probe(x_btd, context, None).reshape(b, s, part.heads, part.head_dim)
        return jnp.mean(each.astype(jnp.float32), 2) / one

    found_pbth = jax.lax.map(gathered, values_psh.astype(x_btd.dtype))
    return jnp.moveaxis(found_pbth, 0, 2).reshape(b, s, -1)[..., :s]
