"""A backbone with a head, as one pure function of parameters and a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.attention import Context
from jaxft.models.heads import read
from jaxft.models.parts import subkey
from jaxft.models.spec import Spec
from jaxft.models.stack import Stack, plan


class Outputs(NamedTuple):
    """`hidden` (batch, length, width) after the last layer; `logits` (batch, slots, classes or vocabulary), float32.

    Without a head `logits` is None.
    """

    hidden: jax.Array
    logits: jax.Array | None


class Model(nnx.Module):
    """An architecture with abstract parameters; `bind` in models/params.py puts values in.

    `trains[i]` is anything hashable that says which parameters of layer i train: the stack is cut where it changes, so
    that each stacked array trains as a whole or not at all.
    """

    def __init__(self, spec: Spec, head=None, *, trains=None, dtype=jnp.float32, remat="none", unroll=1):
        self.spec, self.dtype = spec, jnp.dtype(dtype)
        self.embed = spec.embed.build(spec.width)
        trains = trains or [None] * len(spec.layers)
        self.layers = Stack(spec.layers, spec.width, plan(list(zip(spec.layers, trains, strict=True))), remat, unroll)
        self.norm = spec.final_norm.build(spec.width) if spec.final_norm else nnx.data(None)
        self.head = head.build(spec.width, spec.embed.vocab) if head else nnx.data(None)

    def __call__(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> Outputs:
        """Batch keys as in tasks/base.py. `key=None` means evaluation: no dropout."""
        context = Context(batch["segments"], batch["positions"])
        x = self.embed(batch, self.dtype, subkey(key, 0))
        x = self.layers(x, context, subkey(key, 1))
        if self.norm is not None:
            x = self.norm(x)
        if self.head is None:
            return Outputs(x, None)
        logits = self.head(read(x, batch.get("at")), self.embed.tokens, subkey(key, 2))
        return Outputs(x, logits.astype(jnp.float32))
