"""Attributions from the gradient of a score with respect to token embeddings.

The model looks tokens up in a table. Here each position has its own row of the table, so that the gradient of the
table is that of the embeddings; positions and types are unchanged.
Letters: n points of the line between two texts, t tokens, d width.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.attribution.settings import Settings
from jaxft.attribution.target import Target
from jaxft.attribution.text import Text, pad_to_power_of_2
from jaxft.inference.model import LoadedModel
from jaxft.models.batch import Batch
from jaxft.models.layers.basic import masked_mean
from jaxft.models.layers.tokens import gather_at
from jaxft.models.model import Model, Outputs
from jaxft.models.params import Params, bind
from jaxft.models.spec import Spec
from jaxft.parallel.mesh import data_shards

TABLE = "embed.tokens.embedding"  # shared with the encoder, if there is one


def integrated_gradients(model: LoadedModel, text: Text, target: Target, settings: Settings) -> np.ndarray:
    """Float64 (tokens,): the mean gradient between the embeddings of baseline and text, times their difference.

    Sundararajan et al. 2017, eq. 1, with the integral by Gauss-Legendre quadrature of `steps` points. The sum over the
    tokens is the difference of the two scores, up to the error of the quadrature.
    """
    nodes, weights = np.polynomial.legendre.leggauss(settings.steps)  # from -1 to 1
    start = model.params[TABLE][pad_to_power_of_2(text.baseline_ids(settings.baseline))]
    return _along(model, text, target, start, (nodes + 1) / 2, weights / 2, min(settings.batch, settings.steps))


def input_x_gradient(model: LoadedModel, text: Text, target: Target, settings: Settings) -> np.ndarray:
    """Float64 (tokens,): each token's embedding times its gradient (Shrikumar et al. 2017, section 2.2)."""
    start = jnp.zeros((len(text.batch["tokens"]), model.params[TABLE].shape[1]))
    return _along(model, text, target, start, np.ones(1), np.ones(1), 1)


def _along(
    model: LoadedModel,
    text: Text,
    target: Target,
    start_td: jax.Array,
    points: np.ndarray,
    weights: np.ndarray,
    batch: int,
) -> np.ndarray:
    """The weighted sum of `slopes` at `points` of the line from `start` (0) to the text (1)."""
    shards = data_shards(model.mesh) if batch > 1 else 1
    batch = -(-batch // shards) * shards
    extra = -len(points) % batch
    points, weights = np.pad(points, (0, extra)), np.pad(weights, (0, extra))  # fills the last batch, without weight
    what, total = (model.arch.spec, model.arch.head, model.model.dtype), np.zeros(len(text.tokens))
    with jax.set_mesh(model.mesh):
        for first in range(0, len(points), batch):
            some = slice(first, first + batch)
            at, classes = np.array(target.at), np.array(target.classes)
            found = slopes(what, model.params, text.batch, start_td, np.float32(points[some]), at, classes)
            total += weights[some] @ np.asarray(found, np.float64)[:, : len(total)]
    return total


@partial(jax.jit, static_argnames="what")
def slopes(
    what: tuple[Spec, Any, Any],
    params: Params,
    batch: Batch,
    start_td: jax.Array,
    points_n: jax.Array,
    at_k: jax.Array,
    classes_k: jax.Array,
) -> jax.Array:
    """Float32 (n, t): at each point the gradient of each token's embedding, times the embedding's way from `start`.

    `what` is (spec, head, dtype) of the model, `batch` that of one text, (t,) each. The score is the sum of the logits
    of `classes` at the tokens `at`.
    """
    way_td = params[TABLE][batch["tokens"]] - start_td

    def score(line_ntd: jax.Array) -> jax.Array:
        return jnp.sum(_logits(what, params, line_ntd, batch, at_k)[:, jnp.arange(len(at_k)), classes_k])

    gradient_ntd = jax.grad(score)(start_td + points_n[:, None, None] * way_td)
    return jnp.sum(gradient_ntd * way_td, -1)


def _logits(
    what: tuple[Spec, Any, Any], params: Params, line_ntd: jax.Array, batch: Batch, at_k: jax.Array
) -> jax.Array:
    """Float32 (n, k, classes or vocabulary) for these embeddings at the positions of the text."""
    spec, head, dtype = what
    n, t, d = line_ntd.shape
    begins = isinstance(spec.decoder_start, int)  # the decoder's first token gets the first row of the table
    first = params[TABLE][spec.decoder_start if begins else 0]
    rows = jnp.concatenate([first[None], line_ntd.reshape(n * t, d)])
    whole = bind(Model(spec, head, dtype=dtype), params)
    backbone = bind(Model(replace(spec, decoder_start=0) if begins else spec, dtype=dtype), params | {TABLE: rows})
    rows_nt = 1 + jnp.arange(n * t).reshape(n, t)
    out = backbone(jax.tree.map(lambda values: jnp.broadcast_to(values, (n, t)), batch) | {"tokens": rows_nt})
    at_nk = jnp.broadcast_to(at_k, (n, len(at_k)))
    ones = jnp.broadcast_to(batch["segments"], (n, t))
    seen = masked_mean(out.hidden, ones, at_nk).astype(dtype) if whole.mean else gather_at(out.hidden, at_nk)
    # The head is applied separately: if it shares the table, it needs the trained one.
    assert whole.head is not None  # only models with heads are explained
    logits = Outputs(seen, whole.head(seen, whole.embed.tokens, None, out.memory)).logits
    assert logits is not None
    return logits
