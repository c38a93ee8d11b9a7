"""Attributions from the slope of a score with respect to the embeddings of tokens.

A model looks tokens up in a table. Here every place of every row has a row of the table for itself, so that the slope
with respect to the table is that with respect to what each place has read; positions and types stay as they are.
Letters: n points of the line from one text to another, t tokens, d width.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.attribution.settings import Settings
from jaxft.attribution.target import Target
from jaxft.attribution.text import Text, padded
from jaxft.inference.model import LoadedModel
from jaxft.models.layers.basic import masked_mean
from jaxft.models.layers.tokens import gather_at
from jaxft.models.model import Model, Outputs
from jaxft.models.params import Params, bind
from jaxft.parallel.mesh import data_shards

TABLE = "embed.tokens.embedding"  # an encoder before a decoder reads the decoder's


def integrated_gradients(model: LoadedModel, text: Text, target: Target, settings: Settings) -> np.ndarray:
    """Float64 (tokens,): the mean slope on the line from the blank text's embeddings to the text's, times its length.

    Sundararajan et al. 2017, eq. 1, with their integral by Gauss-Legendre quadrature of `steps` points. The sum is the
    score's difference between the two texts, but for the quadrature's error.
    """
    nodes, weights = np.polynomial.legendre.leggauss(settings.steps)  # from -1 to 1
    start = model.params[TABLE][padded(text.blank(settings.blank))]
    return _along(model, text, target, start, (nodes + 1) / 2, weights / 2, min(settings.batch, settings.steps))


def input_x_gradient(model: LoadedModel, text: Text, target: Target, settings: Settings) -> np.ndarray:
    """Float64 (tokens,): each token's embedding times the score's slope there (Shrikumar et al. 2017, section 2.2)."""
    start = jnp.zeros((len(text.batch["tokens"]), model.params[TABLE].shape[1]))
    return _along(model, text, target, start, np.ones(1), np.ones(1), 1)


def _along(model, text: Text, target: Target, start, points, weights, batch: int) -> np.ndarray:
    """The weighted sum of the slopes at `points` of the line that leads from `start` to the text, 1 being its end."""
    shards = data_shards(model.mesh) if batch > 1 else 1
    batch = -(-batch // shards) * shards
    extra = -len(points) % batch
    points, weights = np.pad(points, (0, extra)), np.pad(weights, (0, extra))  # what has no weight only fills a batch
    what, total = (model.arch.spec, model.arch.head, model.model.dtype), np.zeros(len(text.tokens))
    with jax.set_mesh(model.mesh):
        for first in range(0, len(points), batch):
            some = slice(first, first + batch)
            at, classes = np.array(target.at), np.array(target.classes)
            found = slopes(what, model.params, text.batch, start, np.float32(points[some]), at, classes)
            total += weights[some] @ np.asarray(found, np.float64)[:, : len(total)]
    return total


@partial(jax.jit, static_argnames="what")
def slopes(what, params: Params, batch, start_td, points_n, at_k, classes_k) -> jax.Array:
    """Float32 (n, t): how fast the score changes at each point because of each token's part of the way.

    `what` is (spec, head, dtype) of the model, `batch` that of one text, (t,) each. The score is the sum of the logits
    of `classes` at the tokens `at`.
    """
    way_td = params[TABLE][batch["tokens"]] - start_td

    def score(line_ntd):
        return jnp.sum(_logits(what, params, line_ntd, batch, at_k)[:, jnp.arange(len(at_k)), classes_k])

    gradient_ntd = jax.grad(score)(start_td + points_n[:, None, None] * way_td)
    return jnp.sum(gradient_ntd * way_td, -1)


def _logits(what, params: Params, line_ntd, batch, at_k):
    """Float32 (n, k, classes or vocabulary) where the places have these embeddings."""
    spec, head, dtype = what
    n, t, d = line_ntd.shape
    begins = isinstance(spec.decoder_start, int)  # a decoder's text, with a token that has the first row of the table
    first = params[TABLE][spec.decoder_start if begins else 0]
    rows = jnp.concatenate([first[None], line_ntd.reshape(n * t, d)])
    whole = bind(Model(spec, head, dtype=dtype), params)
    backbone = bind(Model(replace(spec, decoder_start=0) if begins else spec, dtype=dtype), params | {TABLE: rows})
    rows_nt = 1 + jnp.arange(n * t).reshape(n, t)
    out = backbone({name: jnp.broadcast_to(values, (n, t)) for name, values in batch.items()} | {"tokens": rows_nt})
    at_nk = jnp.broadcast_to(at_k, (n, len(at_k)))
    ones = jnp.broadcast_to(batch["segments"], (n, t))
    seen = masked_mean(out.hidden, ones, at_nk).astype(dtype) if whole.mean else gather_at(out.hidden, at_nk)
    # The head by itself: where it shares the table, it is the one that it was trained with.
    return Outputs(seen, whole.head(seen, whole.embed.tokens, None, out.memory)).logits
