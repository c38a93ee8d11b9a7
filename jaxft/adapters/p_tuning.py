"""P-tuning (Liu et al. 2021, "GPT Understands, Too"): the vectors of a prompt are made by a small trained network."""

import zlib
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.adapters.soft_prompt import (
    PromptVectors,
    SoftPrompt,
    attach_rows,
    input_table,
    input_width,
)
from jaxft.config.component import config
from jaxft.config.ranges import Count
from jaxft.models.checkpoint.load import Views
from jaxft.models.checkpoint.pretrained import Architecture
from jaxft.models.layers.basic import Embedding, param
from jaxft.models.layers.precision import upcast
from jaxft.models.model import Model

MLP_LAYERS = 2  # hidden ones of the MLP, as in PEFT


@config
class PTuning(SoftPrompt):
    """A table of embeddings before every text, and a network that they go through, train, with the head of a task.

    The network mixes (LSTM) or transforms (MLP) the embeddings; only its result is needed once it is trained. A good
    learning rate is 5e-3 for a small encoder, 1e-3 for a language model of billions of parameters.
    """

    num_virtual_tokens: Count = 20  # of the table
    encoder: Literal["MLP", "LSTM"] = "MLP"  # the network; an LSTM reads in both directions, and an MLP follows
    encoder_hidden_size: Count | None = None  # of the network; None: the width of the embeddings
    encoder_num_layers: Count = 2  # of the LSTM; an MLP has two hidden layers

    lr_scale: ClassVar[float] = 10.0  # tune/learning_rate.py

    def problems(self) -> list[str]:
        if self.encoder == "MLP" and self.encoder_num_layers != MLP_LAYERS:
            return [f"encoder_num_layers is for encoder='LSTM': an MLP has {MLP_LAYERS} hidden layers. Leave it out"]
        return []

    @property
    def left_out(self) -> str:
        """See soft_prompt.py."""
        return f"the prompt encoder ({self.encoder})"

    def attach(self, model: Model) -> None:
        """See soft_prompt.py."""
        width = input_width(model.spec)
        attach_rows(model, PromptEncoder(self, width, self.encoder_hidden_size or width))

    def initial(self, model: Model, views: Views, tokenizer: Any, seed: int) -> Views:
        """See soft_prompt.py: PyTorch's initial values of an embedding (standard normal) and of an LSTM."""
        path, table = input_table(model)
        flat, _ = jax.tree_util.tree_flatten_with_path(table.virtual.source, is_leaf=_is_parameter)
        found: Views = {}
        for place, variable in flat:
            name = f"{path}.virtual.source.{jax.tree_util.keystr(place, simple=True, separator='.')}"
            generator = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
            shape = variable.get_value().shape
            if variable.get_metadata("role") == "embedding":
                found[name] = generator.standard_normal(shape, np.float32)
            elif ".lstm." in name:
                bound = table.virtual.source.hidden**-0.5
                found[name] = generator.uniform(-bound, bound, shape).astype(np.float32)
        return found

    def peft_config(self, arch: Architecture) -> dict[str, Any]:
        """See soft_prompt.py."""
        return {
            "peft_type": "P_TUNING",
            "encoder_reparameterization_type": self.encoder,
            "encoder_hidden_size": self.encoder_hidden_size or input_width(arch.spec),
            "encoder_num_layers": self.encoder_num_layers,
            "encoder_dropout": 0.0,
        }


class PromptEncoder(PromptVectors):
    """A table of inputs, an LSTM if there is one, and an MLP."""

    def __init__(self, method: PTuning, width: int, hidden: int):
        self.hidden = hidden
        self.table = Embedding(method.num_virtual_tokens, width, (None, None), origin="adapter")
        recurrent = method.encoder == "LSTM"
        inputs = [width] + [2 * hidden] * (method.encoder_num_layers - 1)
        self.lstm: Any = nnx.List(LSTM(size, hidden) for size in inputs) if recurrent else nnx.data(None)
        inner = 2 * hidden if recurrent else hidden
        sizes = [inner, inner, width] if recurrent else [width, inner, inner, width]
        self.mlp = nnx.List(Affine(*pair) for pair in zip(sizes, sizes[1:], strict=False))

    def __call__(self) -> jax.Array:
        x = upcast(self.table.embedding[...])
        for layer in self.lstm if self.lstm is not None else ():
            x = layer(x)
        for number, layer in enumerate(self.mlp):
            x = layer(x if number == 0 else jax.nn.relu(x))
        return x


class Affine(nnx.Module):
    """x W + b, in float32 and not adaptable."""

    def __init__(self, inputs: int, outputs: int):
        self.kernel = param((inputs, outputs), (None, None), "kernel", "kaiming_uniform", origin="adapter")
        self.bias = param((outputs,), (None,), "bias", "zeros", origin="adapter")

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ upcast(self.kernel[...]) + upcast(self.bias[...])


class LSTM(nnx.Module):
    """A bidirectional layer (Hochreiter and Schmidhuber 1997), as torch.nn.LSTM computes it: two biases, the gates in
    the order input, forget, cell, output. Parameters have a leading axis of the two directions."""

    def __init__(self, inputs: int, hidden: int):
        def new(*shape: int, role: Any = "kernel") -> nnx.Param:
            return param((2, *shape), (None,) * (1 + len(shape)), role, origin="adapter")

        self.inputs, self.recurrent = new(inputs, 4 * hidden), new(hidden, 4 * hidden)
        self.input_bias, self.recurrent_bias = (new(4 * hidden, role="bias") for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        """From (length, inputs) to (length, 2 * hidden): the forward direction's states, then the backward one's."""
        weights = [upcast(x[...]) for x in (self.inputs, self.recurrent, self.input_bias, self.recurrent_bias)]
        both = jnp.stack([x, x[::-1]])
        forward, backward = jax.vmap(_states)(both, *weights)
        return jnp.concatenate([forward, backward[::-1]], -1)


def _states(x: jax.Array, inputs: jax.Array, recurrent: jax.Array, bias: jax.Array, own: jax.Array) -> jax.Array:
    """The hidden states (length, hidden) of one direction."""

    def step(carry: tuple[jax.Array, jax.Array], given: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        hidden, cell = carry
        i, f, g, o = jnp.split(given + hidden @ recurrent + own, 4)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zeros = jnp.zeros(recurrent.shape[0], x.dtype)
    _, states = jax.lax.scan(step, (zeros, zeros), x @ inputs + bias)
    return states


def _is_parameter(node: Any) -> bool:
    return isinstance(node, nnx.Variable)
