"""Prefix tuning (Li and Liang 2021): trained keys and values of every layer, before those of every text."""

import zlib
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.adapters.soft_prompt import TASK_TYPES, SoftPrompt
from jaxft.config.component import config
from jaxft.config.ranges import Count
from jaxft.models.checkpoint.load import Views
from jaxft.models.checkpoint.pretrained import Architecture, Pretrained
from jaxft.models.layers.attention import Attention, AttentionLayer, CrossAttentionLayer, KeyPrefix
from jaxft.models.layers.basic import param
from jaxft.models.layers.context import Prefix
from jaxft.models.layers.precision import upcast
from jaxft.models.model import Model
from jaxft.models.params import lead, names
from jaxft.models.spec import Spec
from jaxft.models.stack import stacked


@config
class PrefixTuning(SoftPrompt):
    """Keys and values of every layer, which all tokens see, train, with the head of a task; the rest is frozen.

    With `projection` they are made from a table by an MLP, which only training needs (Li and Liang 2021, section 4.3).
    A good learning rate is far above that of full tuning: 3e-2 for a small encoder, 5e-3 with `projection`.
    """

    num_virtual_tokens: Count = 20  # keys and values of a layer
    projection: bool = False  # through an MLP
    encoder_hidden_size: Count | None = None  # of the MLP; None: the width of a layer's keys
    init: Literal["random", "zero"] = "random"  # zero: the first keys and values are 0

    lr_scale: ClassVar[float] = 60.0  # tune/learning_rate.py

    def problems(self) -> list[str]:
        if self.encoder_hidden_size is not None and not self.projection:
            return ["encoder_hidden_size is of the MLP of projection=True: set that, or leave the size out"]
        return []

    @property
    def row_tokens(self) -> int:
        """None: keys and values take no place in a row."""
        return 0

    @property
    def left_out(self) -> str:
        """See soft_prompt.py."""
        return "the projection" if self.projection else ""

    def refusals(self, arch: Architecture, pretrained: Pretrained) -> list[str]:
        """See soft_prompt.py."""
        layers, known = arch.spec.layers, TASK_TYPES.keys() - {"seq2seq-lm"}
        if arch.kind not in known or arch.spec.encoder is not None:
            return [
                f"PrefixTuning is for the heads {', '.join(sorted(known))} of models without a separate encoder: "
                "choose LoRA, or PromptTuning"
            ]
        plain = all(type(layer.attn) is Attention and layer.attn.rel_bias is None for layer in layers)
        cached = "causal-lm" in pretrained.family.architectures
        if not plain or not cached or len({_size(layer.attn) for layer in layers}) > 1:
            return [
                "PrefixTuning is not for this model: transformers gives its layers no keys and values from outside, or "
                "its layers' are of several sizes. Choose LoRA, or PromptTuning"
            ]
        return []

    def attach(self, model: Model) -> None:
        """See soft_prompt.py."""
        width, _ = _sizes(model.spec)
        hidden = (self.encoder_hidden_size or width) if self.projection else None
        model.prefix = PrefixSource(self.num_virtual_tokens, width, hidden)
        for _, layer in _layers(model):
            part = ProjectedKeys(hidden, width) if hidden else TrainedKeys(self.num_virtual_tokens, width)
            if self.init == "zero":
                for variable in _last(part):
                    variable.set_metadata("init", "zeros")
            kernel = layer.q.kernel
            layer.prefix = stacked(part, kernel.get_value().shape[0]) if lead(kernel) else part

    def placed(self, arch: Architecture) -> None:
        """None: no token stands for the prefix."""

    def initial(self, model: Model, views: Views, tokenizer: Any, seed: int) -> Views:
        """See soft_prompt.py: a standard normal table for the MLP, as in PEFT."""
        if not self.projection:
            return {}
        name = "prefix.embedding"
        generator = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
        return {name: generator.standard_normal(model.prefix.embedding.get_value().shape, np.float32)}

    def vectors(self, model: Model) -> jax.Array:
        """See soft_prompt.py: (virtual tokens, layers * 2 * width), of each layer the keys, then the values."""
        return jax.jit(_flattened)(model)

    def from_vectors(self, model: Model, vectors: np.ndarray) -> Views | None:
        """See soft_prompt.py."""
        width, count = _sizes(model.spec)
        if vectors.shape[1] != 2 * count * width:
            return None
        pieces = np.split(vectors, 2 * count, 1)
        keys: Views = {f"layers.{i}.attn.prefix.key": piece for i, piece in enumerate(pieces[::2])}
        return keys | {f"layers.{i}.attn.prefix.value": piece for i, piece in enumerate(pieces[1::2])}

    def peft_config(self, arch: Architecture) -> dict[str, Any]:
        """See soft_prompt.py."""
        part, (width, count) = arch.spec.layers[0].attn, _sizes(arch.spec)
        return {
            "peft_type": "PREFIX_TUNING",
            "prefix_projection": self.projection,
            "encoder_hidden_size": self.encoder_hidden_size or width,
            "num_attention_heads": part.kv_heads,
            "num_layers": count,
            "token_dim": width,
        }


class PrefixSource(nnx.Module):
    """What the layers make their keys and values of: a table through half an MLP, or nothing."""

    def __init__(self, count: int, width: int, hidden: int | None):
        self.count = count
        self.embedding: Any = nnx.data(None)
        if hidden is not None:
            self.embedding = _new((count, width), "embedding")
            self.kernel = _new((width, hidden), "kernel", "kaiming_uniform")
            self.bias = _new((hidden,), "bias", "zeros")

    def __call__(self) -> Prefix:
        if self.embedding is None:
            return Prefix(self.count, None)
        inner = upcast(self.embedding[...]) @ upcast(self.kernel[...]) + upcast(self.bias[...])
        return Prefix(self.count, jnp.tanh(inner))


class TrainedKeys(KeyPrefix):
    """Keys and values that train themselves."""

    def __init__(self, count: int, width: int):
        self.key, self.value = (_new((count, width), "embedding") for _ in range(2))

    def __call__(self, hidden: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        return upcast(self.key[...]), upcast(self.value[...])


class ProjectedKeys(KeyPrefix):
    """A layer's part of the MLP's output matrix."""

    def __init__(self, hidden: int, width: int):
        self.key, self.value = (_new((hidden, width), "kernel", "kaiming_uniform") for _ in range(2))
        self.key_bias, self.value_bias = (_new((width,), "bias", "zeros") for _ in range(2))

    def __call__(self, hidden: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        assert hidden is not None
        keys = hidden @ upcast(self.key[...]) + upcast(self.key_bias[...])
        return keys, hidden @ upcast(self.value[...]) + upcast(self.value_bias[...])


def _new(shape: tuple[int, ...], role: Any, init: str = "normal") -> nnx.Param:
    return param(shape, (None,) * len(shape), role, init, origin="adapter")


def _last(part: KeyPrefix) -> list[nnx.Variable]:
    return jax.tree.leaves(part, is_leaf=lambda node: isinstance(node, nnx.Variable))


def _layers(model: Model) -> Iterator[tuple[str, AttentionLayer]]:
    """(path, self-attention) of each in the model; a stacked one is that of several layers."""
    for path, module in list(nnx.iter_modules(model)):
        if isinstance(module, AttentionLayer) and not isinstance(module, CrossAttentionLayer):
            yield ".".join(map(str, path)), module


def _flattened(model: Model) -> jax.Array:
    hidden, by_name = model.prefix().hidden, {}
    for path, layer in _layers(model):
        found = names(model, path)
        several = layer.q.kernel.get_value().ndim > 2
        rows = jax.vmap(lambda one: one(hidden))(layer.prefix) if several else layer.prefix(hidden)
        for row, name in enumerate(found):
            by_name[name] = [x[row] if several else x for x in rows]
    return jnp.concatenate([x for i in range(len(by_name)) for x in by_name[f"layers.{i}.attn"]], 1)


def _size(part: Attention) -> tuple[int, int]:
    return part.kv_heads, part.head_dim


def _sizes(spec: Spec) -> tuple[int, int]:
    """(width of a layer's keys, number of layers)."""
    heads, size = _size(spec.layers[0].attn)
    return heads * size, len(spec.layers)
