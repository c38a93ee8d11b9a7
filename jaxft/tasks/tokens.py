"""Loss and metrics of tasks that predict tokens."""

import math
from collections.abc import Mapping

import jax.numpy as jnp

from jaxft.metrics import Mean
from jaxft.metrics.declared import Metric, higher, lower
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.layers.lm_loss import LazyLogits
from jaxft.models.model import Outputs
from jaxft.tasks.base import Task

TOKENS = lower("loss", "perplexity") | higher("accuracy")


class PredictsTokens(Task):
    """Base class of tasks that predict a token at each position that the head reads."""

    __slots__ = ()

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        return token_sums(out, batch)

    def metrics(self) -> dict[str, Metric]:
        return TOKENS

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        return perplexity(sums)


def token_sums(out: Outputs, batch: Batch) -> dict[str, Mean]:
    """`loss`, the cross entropy in nats, and `accuracy` over the vocabulary, weighted by the batch's `weights`."""
    if not isinstance(out.head_output, LazyLogits):
        raise ValueError("the task needs a language modelling head, and the model has none")
    total, hits = out.head_output.cross_entropy(batch["targets"], batch["weights"])
    count = jnp.sum(batch["weights"])
    return {"loss": Mean(total, count), "accuracy": Mean.of(hits, batch["weights"])}


def perplexity(sums: Mapping[str, Mean]) -> dict[str, float]:
    """exp of the mean loss, which is limited to 700 so that the result is finite in float64."""
    return {"perplexity": math.exp(min(sums["loss"].value(), 700.0))}
