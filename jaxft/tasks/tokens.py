"""Loss and metrics of tasks that predict a token at each slot."""

import math

import jax.numpy as jnp

from jaxft.metrics import Mean
from jaxft.metrics.declared import higher, lower
from jaxft.models.model import Outputs
from jaxft.tasks.base import Task

TOKENS = lower("loss", "perplexity") | higher("accuracy")


class PredictsTokens(Task):
    """What tasks share that predict a token at each slot."""

    __slots__ = ()

    def loss(self, out, batch):
        return token_sums(out, batch)

    def metrics(self):
        return TOKENS

    def compute_metrics(self, sums, kept):
        return perplexity(sums)


def token_sums(out: Outputs, batch) -> dict[str, Mean]:
    """Cross entropy (nats) and accuracy over the vocabulary, by the slots' weights."""
    total, hits = out.head_output.cross_entropy(batch["targets"], batch["weights"])
    count = jnp.sum(batch["weights"])
    return {"loss": Mean(total, count), "accuracy": Mean.of(hits, batch["weights"])}


def perplexity(sums: dict[str, Mean]) -> dict[str, float]:
    """exp of the mean loss; of a loss beyond float64's range, the largest that it holds."""
    return {"perplexity": math.exp(min(sums["loss"].value(), 700.0))}
