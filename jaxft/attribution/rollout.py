"""Attributions from the attention weights of all layers.

Letters: n layers, b batch, t query length, s key length.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.attribution.settings import Settings
from jaxft.attribution.target import Target
from jaxft.attribution.text import Text
from jaxft.inference.model import LoadedModel
from jaxft.models.batch import Batch
from jaxft.models.model import Model
from jaxft.models.params import Params, bind
from jaxft.models.spec import Spec


def attention_rollout(model: LoadedModel, text: Text, target: Target, settings: Settings) -> np.ndarray:
    """Float64 (tokens,), with sum 1: the share of each token in the position that the score is read from.

    The mean over the positions, if there are two. It says where the model attends, not whether that raises the score.
    """
    batch: Batch = jax.tree.map(lambda values: values[None], text.batch)
    with jax.set_mesh(model.mesh):
        rolled = np.asarray(rollout(model.arch.spec, model.model.dtype, model.params, batch)[0], np.float64)
    return rolled[list(target.at), : len(text.tokens)].mean(0)


@partial(jax.jit, static_argnames=("spec", "dtype"))
def rollout(spec: Spec, dtype: Any, params: Params, batch: Batch) -> jax.Array:
    """Float32 (b, t, s): the product of all layers' attention (Abnar and Zuidema 2020, section 3).

    A layer's is the mean over its heads, averaged with the identity that the residual connection is.
    """
    attentions_nbts = bind(Model(spec, dtype=dtype, attentions=True), params)(batch).attentions
    assert attentions_nbts is not None
    identity = jnp.eye(attentions_nbts.shape[-1])

    def multiply(rolled_bts: jax.Array, attention_bts: jax.Array) -> tuple[jax.Array, None]:
        mixed = attention_bts + identity
        return mixed / jnp.sum(mixed, -1, keepdims=True) @ rolled_bts, None

    first = jnp.broadcast_to(identity, attentions_nbts.shape[1:])
    return jax.lax.scan(multiply, first, attentions_nbts)[0]
