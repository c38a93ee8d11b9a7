"""A backbone with a head, as one pure function of parameters and a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models.batch import Batch
from jaxft.models.heads import PretrainingLayer
from jaxft.models.layers.basic import Embedding, fold_key, masked_mean
from jaxft.models.layers.context import Carry, Collect, Context, Memory, RouterStats, merge
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.lm_loss import LazyLogits
from jaxft.models.layers.tokens import Tokens, gather_at
from jaxft.models.spec import Spec
from jaxft.models.stack import Stack, plan


class Outputs(NamedTuple):
    """Hidden states after the last layer, (batch, length, width), and what the head makes of them.

    With `hidden="read"`, `hidden` holds only the positions that the head reads, (batch, predictions, width), then those
    of the pairs. In encoder-decoder models `hidden` and `attentions` are the decoder's.
    """

    hidden: jax.Array
    head_output: jax.Array | LazyLogits | None
    memory: jax.Array | None = None  # the encoder's output, (batch, source length, width)
    aux_loss: jax.Array | None = None  # router_aux_coef times the load balancing loss, to be added to the mean loss
    pair_logits: jax.Array | None = None  # float32 (batch, pairs, classes), from a head for pretraining
    attentions: jax.Array | None = None  # float32 (layers, batch, length, length), the mean over heads, if collected

    @property
    def logits(self) -> jax.Array | None:
        """Float32 (batch, predictions, classes or vocabulary); None without a head."""
        made = self.head_output
        return made.scores() if isinstance(made, LazyLogits) else made


class Backbone(nnx.Module):
    """Embeddings, layers and the final norm. The names of its parameters begin with `name`."""

    def __init__(self, spec: Spec, name: str, trains, hidden: str, attentions: bool, dtype, remat: str, unroll: int):
        self.spec, self.hidden, self.dtype = spec, hidden, jnp.dtype(dtype)
        self.collect = Collect(hidden == "every", attentions, spec.router_aux_coef > 0)
        self.embed = spec.embed.build(spec.width)
        kinds: list[tuple] = [(layer, trains and trains(f"{name}layers.{i}.")) for i, layer in enumerate(spec.layers)]
        if hidden == "read":
            kinds[-1] = (*kinds[-1], "last")  # a segment of its own
        shared = next((layer.attn.rel_bias for layer in spec.layers if layer.attn.rel_bias), None)
        self.rel_bias = shared.build(spec.width) if shared and shared.shared else nnx.data(None)
        self.layers = Stack(spec.layers, spec.width, plan(kinds), remat, unroll)
        self.norm = spec.final_norm.build(spec.width) if spec.final_norm else nnx.data(None)
        self.prefix: Any = nnx.data(None)  # a module that gives a Prefix (layers/context.py)

    def run(
        self, batch: Batch, key: jax.Array | None, table: Embedding | None = None, memory: Memory | None = None
    ) -> tuple[jax.Array, Carry]:
        """(the final hidden states, the Carry of all layers).

        With hidden="read" the hidden states are those at the batch's `at`. `hidden` of the Carry begins with the
        embeddings. `table` is the token embedding where it is another backbone's.
        """
        prefix = None if self.prefix is None else self.prefix()
        if prefix is not None:  # which has the first positions of every text
            batch = {**batch, "positions": batch["positions"] + prefix.length}
        tokens = Tokens.rows(batch["segments"], batch["positions"], batch.get("types"))
        rel_bias = None if self.rel_bias is None else self.rel_bias(batch["tokens"].shape[1])
        context = Context(tokens, tokens, memory=memory, rel_bias=rel_bias, prefix=prefix, collect=self.collect)
        x = embedded = self.embed(batch, self.dtype, fold_key(key, 0), table)
        x, carry = self.layers(x, context, fold_key(key, 1), batch.get("at") if self.hidden == "read" else None)
        if self.norm is not None:
            x = self.norm(x)
        x = dropout(x, self.spec.dropout or 0.0, fold_key(key, 3))
        return x, merge([Carry(hidden=embedded[None]), carry]) if self.collect.hidden else carry


class Model(Backbone):
    """An architecture with abstract parameters; `bind` in models/params.py puts values in.

    `trains` gives for what the names of a layer's parameters begin with, `layers.3.`, anything hashable that says which
    of them train: the stack is cut where it changes, so that each stacked array trains as a whole or not at all.
    `hidden` is "all", or "read": the last layer then computes queries, MLP and norms only at the batch's `at`, where
    the head reads; the numbers are the same. Or it is "every": `hidden` of the outputs then holds the embeddings and
    the results of all layers, (layers + 1, batch, length, width), and so does `memory` of the encoder. The last of them
    is the model's own result; if that has another width, it is left out. `attentions` asks for `Outputs.attentions`.
    """

    def __init__(
        self,
        spec: Spec,
        head=None,
        *,
        trains: Callable | None = None,
        hidden="all",
        attentions=False,
        dtype=jnp.float32,
        remat="none",
        unroll=1,
    ):
        self.mean: bool = head.mean if head else False
        self.skip: int = head.skip if head else 0
        hidden = "all" if self.mean and hidden == "read" else hidden  # a mean needs all of it
        super().__init__(spec, "", trains, hidden, attentions, dtype, remat, unroll)
        whole = "every" if hidden == "every" else "all"
        options = trains, whole, False, dtype, remat, unroll
        self.encoder = Backbone(spec.encoder, "encoder.", *options) if spec.encoder else nnx.data(None)
        self.head = head.build(spec.output_width or spec.width, spec.embed.vocab) if head else nnx.data(None)

    def __call__(self, batch: Batch, key: jax.Array | None = None) -> Outputs:
        """`key=None` means evaluation: no dropout."""
        memory, states, at = None, None, batch.get("at")
        if self.encoder is not None:
            table = self.embed.tokens if self.encoder.spec.embed.shared_embedding else None
            result, carry = self.encoder.run(batch, fold_key(key, 4), table)
            memory = Memory(result, Tokens.rows(batch["segments"], batch["positions"]))
            states = _states(result, carry)
            batch = decoder_batch(batch, self.spec.decoder_start)
        pair_at = batch.get("pair_at") if isinstance(self.head, PretrainingLayer) else None
        if pair_at is not None and self.hidden == "read":
            batch = {**batch, "at": jnp.concatenate([batch["at"], pair_at], 1)}
        x, carry = self.run(batch, key, memory=memory)
        rest = states, self._aux_loss(carry.router)
        if self.head is None:
            return Outputs(_states(x, carry), None, *rest, attentions=carry.attentions)
        read, of_pairs = self._head_inputs(x, batch, at, pair_at)
        pairs = None if of_pairs is None else self.head.pair(of_pairs, self.embed.tokens, fold_key(key, 5))
        made = self.head(read, self.embed.tokens, fold_key(key, 2), None if memory is None else memory.hidden)
        return Outputs(_states(x, carry), made, *rest, pairs, carry.attentions)

    def _head_inputs(self, x, batch, at, pair_at):
        """What the head reads of the hidden states, and what its sentence-pair classifier reads (None: nothing)."""
        if self.mean:
            return masked_mean(x, batch["segments"], at, batch["positions"] >= self.skip).astype(x.dtype), None
        if self.hidden != "read":
            return gather_at(x, at), None if pair_at is None else gather_at(x, pair_at)
        return (x, None) if pair_at is None else jnp.split(x, [at.shape[1]], 1)

    def _aux_loss(self, stats: RouterStats | None) -> jax.Array | None:
        return None if stats is None else self.spec.router_aux_coef * load_balancing_loss(stats)


def _states(x: jax.Array, carry: Carry) -> jax.Array:
    """What `Outputs.hidden` or `Outputs.memory` is: x, or with hidden="every" the results of all layers."""
    if carry.hidden is None:
        return x
    return carry.hidden.at[-1].set(x) if x.shape == carry.hidden.shape[1:] else carry.hidden[:-1]


def load_balancing_loss(stats: RouterStats) -> jax.Array:
    """How unevenly experts are used (Fedus et al. 2022, eq. 4 to 6, without the coefficient): least if all are used
    equally often.

    `stats` are summed over all layers. 0 without any token, as in a micro-batch of empty rows.
    """
    counts, probs = stats
    tokens = jax.lax.stop_gradient(jnp.sum(probs))
    tokens = jnp.where(tokens > 0, tokens, 1.0)
    return len(counts) * jnp.sum(counts / tokens * probs / tokens)


def decoder_batch(batch: Batch, start: int | str | None) -> Batch:
    """The decoder's batch: `decoder_tokens` and so on if there are any, otherwise the same texts, shifted by one.

    `start` is the token that each shifted text begins with; "last": the text's own last token.
    """
    if "decoder_tokens" in batch:
        tokens, segments, positions = batch["decoder_tokens"], batch["decoder_segments"], batch["decoder_positions"]
    else:
        tokens, segments, positions = _shifted(batch, start), batch["segments"], batch["positions"]
    made: Batch = {"tokens": tokens, "segments": segments, "positions": positions}
    return {**made, "at": batch["at"]} if "at" in batch else made


def _shifted(batch: Batch, start: int | str | None) -> jax.Array:
    """(batch, length): each text begins with `start` and ends before its last token (Lewis et al. 2020, 3.1)."""
    tokens, segments = batch["tokens"], batch["segments"]
    before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    first = _last_tokens(tokens, segments) if start == "last" else jnp.asarray(start)
    return jnp.where(segments != before, first, jnp.roll(tokens, 1, 1))


def _last_tokens(tokens_bt: jax.Array, segments_bt: jax.Array) -> jax.Array:
    """(batch, length): the last token of the text that each position is in."""
    same = segments_bt[:, :, None] == segments_bt[:, None, :]
    last = jnp.max(jnp.where(same, jnp.arange(tokens_bt.shape[1]), 0), -1)
    return jnp.take_along_axis(tokens_bt, last, 1)
