"""Loss and metrics of tasks that predict a token at each slot."""

import math

import jax.numpy as jnp
import optax

from jaxft.metrics import Mean
from jaxft.models.model import Outputs


def token_sums(out: Outputs, batch) -> dict[str, Mean]:
    """Cross entropy (nats) and accuracy of `logits` (batch, slots, vocabulary), by the slots' weights."""
    errors = optax.softmax_cross_entropy_with_integer_labels(out.logits, batch["targets"])
    hits = jnp.argmax(out.logits, -1) == batch["targets"]
    return {"loss": Mean.of(errors, batch["weights"]), "accuracy": Mean.of(hits, batch["weights"])}


def perplexity(sums: dict[str, Mean]) -> dict[str, float]:
    """exp of the mean loss; of a loss beyond float64's range, the largest that it holds."""
    return {"perplexity": math.exp(min(sums["loss"].value(), 700.0))}
