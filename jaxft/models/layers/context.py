"""What the layers of one call share (`Context`), and what they give beside their result (`Carry`).

Letters: b batch, t query length, s key length, d width, n layers, e experts.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.models.layers.kernels.kernel import Kernel
from jaxft.models.layers.tokens import Tokens, gather_at


class Memory(NamedTuple):
    """The encoder's output, which cross-attention reads."""

    hidden: jax.Array  # (b, s, d)
    tokens: Tokens


class Prefix(NamedTuple):
    """Trained keys and values that every query sees: a layer makes them of `hidden`, or has them."""

    length: int
    hidden: jax.Array | None  # float32 (length, width)


class Collect(NamedTuple):
    """What a call collects from its layers beside the last one's result (the fields of `Carry`)."""

    hidden: bool = False
    attentions: bool = False
    router: bool = False


class RouterStats(NamedTuple):
    """How a router used its experts, summed over the tokens that are not padding; float32 (e,)."""

    counts: jax.Array  # tokens that were sent to each expert
    probs: jax.Array  # of each expert the sum of the router's probabilities


class Carry(NamedTuple):
    """What layers give beside their result. A field is None if it is not collected."""

    hidden: jax.Array | None = None  # (n, b, t, d): the result of each layer
    attentions: jax.Array | None = (
        None  # float32 (n, b, t, s): the mean of its heads' attention weights, without dropout
    )
    router: RouterStats | None = None  # summed over the layers


def merge(carries: Iterable[Carry]) -> Carry:
    """Of several layers, in order, as of one: arrays by layer are concatenated, statistics of routers summed."""
    hidden, attentions, router = zip(*carries, strict=True)
    return Carry(_concatenate(hidden), _concatenate(attentions), sum_stats(router))


def sum_stats(stats: Iterable[RouterStats | None]) -> RouterStats | None:
    found = [one for one in stats if one is not None]
    return jax.tree.map(lambda *x: sum(x), *found) if found else None


def flatten_scan(carry: Carry) -> Carry:
    """A carry with the leading axis that `lax.scan` adds, as the carry of all its layers."""
    hidden, attentions = (None if x is None else x.reshape(-1, *x.shape[2:]) for x in carry[:2])
    return Carry(hidden, attentions, jax.tree.map(lambda x: jnp.sum(x, 0), carry.router))


def _concatenate(arrays):
    found = [x for x in arrays if x is not None]
    return jnp.concatenate(found) if len(found) > 1 else found[0] if found else None


class AttentionPlan(NamedTuple):
    """How the layers of one attention part attend in this call: made once, outside the scan over layers."""

    kernel: Kernel
    mask: Any  # what `kernel.prepare` made
    rotary: tuple[tuple[jax.Array, jax.Array], ...] | None  # cosine and sine of the queries, and of the keys


@dataclass(frozen=True)
class Context:
    """What all layers of one call share. Immutable: what layers find out leaves them in their `Carry`."""

    queries: Tokens
    keys: Tokens  # the same object if every token of x is a query
    at: jax.Array | None = None  # int32 (b, t): the columns of a layer's input that are queries; None: all are
    memory: Memory | None = None
    rel_bias: jax.Array | None = None  # what all layers' shared RelativeBias made (relative_bias.py)
    prefix: Prefix | None = None  # before the keys of every text
    collect: Collect = Collect()
    plans: Mapping[Hashable, AttentionPlan] = field(default_factory=dict)  # by attention part

    def select(self, at_bk: jax.Array) -> "Context":
        """The same call with queries in the columns `at` only; its plans have to be made."""
        return replace(self, queries=self.queries.take(at_bk), at=at_bk, plans={})

    @property
    def encoded(self) -> Memory:
        """`memory`, for cross-attention, which is used only where there is one."""
        assert self.memory is not None
        return self.memory

    def gather(self, x_bsd: jax.Array) -> jax.Array:
        """The queries' vectors of a layer's input, (b, t, d)."""
        return gather_at(x_bsd, self.at)

    @property
    def is_square(self) -> bool:
        """Whether queries and keys are the same tokens in the same order."""
        return self.queries is self.keys
