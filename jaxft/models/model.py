"""A backbone with a head, as one pure function of parameters and a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.attention import Context
from jaxft.models.parts import read, subkey
from jaxft.models.spec import Spec
from jaxft.models.stack import Stack, plan
from jaxft.models.vocabulary import Vocabulary


class Outputs(NamedTuple):
    """`hidden` (batch, length, width) after the last layer, and what the head says.

    Of a model that computes what its head reads, `hidden` is (batch, slots, width).
    """

    hidden: jax.Array
    scores: jax.Array | Vocabulary | None

    @property
    def logits(self) -> jax.Array | None:
        """(batch, slots, classes or vocabulary), float32; without a head None."""
        return self.scores.scores() if isinstance(self.scores, Vocabulary) else self.scores


class Model(nnx.Module):
    """An architecture with abstract parameters; `bind` in models/params.py puts values in.

    `trains[i]` is anything hashable that says which parameters of layer i train: the stack is cut where it changes, so
    that each stacked array trains as a whole or not at all. `hidden` is "all", or "read": the last layer then computes
    queries, MLP and norms only at the batch's `at`, where the head reads; the numbers are the same. Or it is "every":
    `hidden` of the outputs then holds the embeddings and the results of all layers, (layers + 1, batch, length, width).
    """

    def __init__(self, spec: Spec, head=None, *, trains=None, hidden="all", dtype=jnp.float32, remat="none", unroll=1):
        self.spec, self.hidden, self.dtype = spec, hidden, jnp.dtype(dtype)
        self.embed = spec.embed.build(spec.width)
        kinds = list(zip(spec.layers, trains or [None] * len(spec.layers), strict=True))
        if hidden == "read":
            kinds[-1] = (*kinds[-1], "last")  # a segment of its own
        self.layers = Stack(spec.layers, spec.width, plan(kinds), remat, unroll)
        self.norm = spec.final_norm.build(spec.width) if spec.final_norm else nnx.data(None)
        self.head = head.build(spec.width, spec.embed.vocab) if head else nnx.data(None)

    def __call__(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> Outputs:
        """Batch keys as in tasks/base.py. `key=None` means evaluation: no dropout."""
        context = Context(batch["segments"], batch["positions"])
        x = self.embed(batch, self.dtype, subkey(key, 0))
        at = batch.get("at")
        states = [x[None]]
        if self.hidden == "every":
            x, of_layers = self.layers(x, context, subkey(key, 1), every=True)
            states += of_layers
        else:
            x = self.layers(x, context, subkey(key, 1), at if self.hidden == "read" else None)
        if self.norm is not None:
            x = self.norm(x)
        hidden = jnp.concatenate(states).at[-1].set(x) if self.hidden == "every" else x
        if self.head is None:
            return Outputs(hidden, None)
        seen = x if self.hidden == "read" else read(x, at)
        return Outputs(hidden, self.head(seen, self.embed.tokens, subkey(key, 2)))
