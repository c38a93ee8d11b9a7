"""A backbone with a head, as one pure function of parameters and a batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.heads import PretrainingLayer
from jaxft.models.layers.attention import Context
from jaxft.models.layers.basic import Embedding, fold_key, masked_mean, read
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.lm_loss import LazyLogits
from jaxft.models.spec import Spec
from jaxft.models.stack import Stack, plan


class Outputs(NamedTuple):
    """`hidden` (batch, length, width) after the last layer, and what the head says.

    With `hidden="read"`, `hidden` holds only the positions that the head reads, (batch, slots, width), and then those
    of the pairs.
    `memory` (batch, source length, width) is the encoder's result, if there is one; `hidden` is then the decoder's.
    """

    hidden: jax.Array
    scores: jax.Array | LazyLogits | None
    memory: jax.Array | None = None
    balance: jax.Array | None = None  # what to add to the mean loss, so that all experts have work
    pair_logits: jax.Array | None = None  # float32 (batch, pairs, classes), of a head for pretraining

    @property
    def logits(self) -> jax.Array | None:
        """(batch, slots, classes or vocabulary), float32; without a head None."""
        return self.scores.scores() if isinstance(self.scores, LazyLogits) else self.scores


class Backbone(nnx.Module):
    """Embeddings, layers and the norm behind them. `name` is what its parameters' names begin with."""

    def __init__(self, spec: Spec, name: str, trains, hidden: str, dtype, remat: str, unroll: int):
        self.spec, self.hidden, self.dtype = spec, hidden, jnp.dtype(dtype)
        self.embed = spec.embed.build(spec.width)
        kinds = [(layer, trains and trains(f"{name}layers.{i}.")) for i, layer in enumerate(spec.layers)]
        if hidden == "read":
            kinds[-1] = (*kinds[-1], "last")  # a segment of its own
        shared = next((layer.attn.distances for layer in spec.layers if layer.attn.distances), None)
        self.distances = shared.build(spec.width) if shared and shared.shared else nnx.data(None)
        self.layers = Stack(spec.layers, spec.width, plan(kinds), remat, unroll)
        self.norm = spec.final_norm.build(spec.width) if spec.final_norm else nnx.data(None)

    def run(self, batch, key, tokens: Embedding | None = None, memory=(None, None)):
        """(the result, what `hidden` asks for, the experts' balance or None).

        `memory` is an encoder's result and the segments of its text; `tokens` the table of tokens where that is
        another's.
        """
        context = Context(batch["segments"], batch["positions"], *memory)
        context.types, context.routes = batch.get("types"), [] if self.spec.router_aux_coef else None
        if self.distances is not None:
            context.distances = self.distances(batch["tokens"].shape[1])
        x = self.embed(batch, self.dtype, fold_key(key, 0), tokens)
        states = [x[None]]
        if self.hidden == "every":
            x, of_layers = self.layers(x, context, fold_key(key, 1), every=True)
            states += of_layers
        else:
            x = self.layers(x, context, fold_key(key, 1), batch.get("at") if self.hidden == "read" else None)
        if self.norm is not None:
            x = self.norm(x)
        x = dropout(x, self.spec.dropout or 0.0, fold_key(key, 3))
        balance = (
            self.spec.router_aux_coef * load_balancing_loss(sum(context.routes)) if self.spec.router_aux_coef else None
        )
        if self.hidden != "every":
            return x, x, balance
        states = jnp.concatenate(states)
        return x, states.at[-1].set(x) if x.shape == states.shape[1:] else states[:-1], balance


class Model(Backbone):
    """An architecture with abstract parameters; `bind` in models/params.py puts values in.

    `trains` gives for what the names of a layer's parameters begin with, `layers.3.`, anything hashable that says which
    of them train: the stack is cut where it changes, so that each stacked array trains as a whole or not at all.
    `hidden` is "all", or "read": the last layer then computes queries, MLP and norms only at the batch's `at`, where
    the head reads; the numbers are the same. Or it is "every": `hidden` of the outputs then holds the embeddings and
    the results of all layers, (layers + 1, batch, length, width), and so does `memory` of the encoder. The last of them
    is the model's own result; where that is of another width, it is left out.
    """

    def __init__(
        self,
        spec: Spec,
        head=None,
        *,
        trains: Callable | None = None,
        hidden="all",
        dtype=jnp.float32,
        remat="none",
        unroll=1,
    ):
        self.mean, self.skip = (head.mean, head.skip) if head else (False, 0)
        hidden = "all" if self.mean and hidden == "read" else hidden  # a mean needs all of it
        super().__init__(spec, "", trains, hidden, dtype, remat, unroll)
        whole = "every" if hidden == "every" else "all"
        encoder = spec.encoder
        self.encoder = Backbone(encoder, "encoder.", trains, whole, dtype, remat, unroll) if encoder else nnx.data(None)
        self.head = head.build(spec.output_width or spec.width, spec.embed.vocab) if head else nnx.data(None)

    def __call__(self, batch: dict[str, jax.Array], key: jax.Array | None = None) -> Outputs:
        """Batch keys as in tasks/base.py. `key=None` means evaluation: no dropout."""
        memory, states, at = (None, None), None, batch.get("at")
        if self.encoder is not None:
            tokens = self.embed.tokens if self.encoder.spec.embed.shared_embedding else None
            result, states, _ = self.encoder.run(batch, fold_key(key, 4), tokens)
            memory = result, batch["segments"]
            batch = decoder_batch(batch, self.spec.decoder_start)
        pair_at = batch.get("pair_at") if isinstance(self.head, PretrainingLayer) else None
        if pair_at is not None and self.hidden == "read":
            batch = batch | {"at": jnp.concatenate([at, pair_at], 1)}
        x, hidden, balance = self.run(batch, key, memory=memory)
        if self.head is None:
            return Outputs(hidden, None, states, balance)
        seen, of_pairs = self._seen(x, batch, at, pair_at)
        pairs = None if of_pairs is None else self.head.pair(of_pairs, self.embed.tokens, fold_key(key, 5))
        return Outputs(hidden, self.head(seen, self.embed.tokens, fold_key(key, 2), memory[0]), states, balance, pairs)

    def _seen(self, x, batch, at, pair_at):
        """What the head reads of the result, and what its scores of pairs read, where it has those."""
        if self.mean:
            return masked_mean(x, batch["segments"], at, batch["positions"] >= self.skip).astype(x.dtype), None
        if self.hidden != "read":
            return read(x, at), None if pair_at is None else read(x, pair_at)
        return (x, None) if pair_at is None else jnp.split(x, [at.shape[1]], 1)


def load_balancing_loss(routes_2e: jax.Array) -> jax.Array:
    """How unevenly experts are used (Fedus et al. 2022, eq. 4 to 6, without its factor): least where all are alike.

    `routes` are for each expert how many tokens went to it and the sum of the router's shares, over all layers. 0
    without any token, as in a micro-batch of empty rows.
    """
    hits, shares = routes_2e
    tokens = jax.lax.stop_gradient(jnp.sum(shares))
    tokens = jnp.where(tokens > 0, tokens, 1.0)
    return len(hits) * jnp.sum(hits / tokens * shares / tokens)


def decoder_batch(batch: dict[str, jax.Array], start: int | str | None) -> dict[str, jax.Array]:
    """What the decoder reads: the batch's `decoder_tokens` and so on, or else the same texts again.

    Each then begins with the token `start` and ends before its last (Lewis et al. 2020, section 3.1).
    """
    at = {"at": batch["at"]} if "at" in batch else {}
    if "decoder_tokens" in batch:
        return at | {name: batch["decoder_" + name] for name in ("tokens", "segments", "positions")}
    tokens, segments = batch["tokens"], batch["segments"]
    before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    if start == "last":
        same = segments[:, :, None] == segments[:, None, :]
        start = jnp.take_along_axis(tokens, jnp.max(jnp.where(same, jnp.arange(tokens.shape[1]), 0), -1), 1)
    shifted = jnp.where(segments != before, start, jnp.roll(tokens, 1, 1))
    return at | {"tokens": shifted, "segments": segments, "positions": batch["positions"]}
