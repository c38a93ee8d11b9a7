"""Heads: what maps a backbone's hidden states to logits. Classifiers, and the output layers of language models.

The model calls a head with `hidden` (batch, predictions, width), the hidden states at the positions that it reads, the
token embedding, a dropout key (None: evaluation), and the encoder's output `memory` (batch, source length, width), if
there is one.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.models.layers.activations import ACTIVATIONS, known_activation
from jaxft.models.layers.basic import Embedding, LayerNorm, Linear, fold_key, param
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.lm_loss import LazyLogits
from jaxft.models.layers.precision import upcast
from jaxft.models.part import Part

# The names of heads, and how transformers names a model class with each.
KINDS = {
    "none": "{}Model",
    "sequence-classification": "{}ForSequenceClassification",
    "token-classification": "{}ForTokenClassification",
    "question-answering": "{}ForQuestionAnswering",
    "multiple-choice": "{}ForMultipleChoice",
    "masked-lm": "{}ForMaskedLM",
    "causal-lm": "{}ForCausalLM",
    "seq2seq-lm": "{}ForConditionalGeneration",
    "pretraining": "{}ForPreTraining",
    "image-classification": "{}ForImageClassification",
    "audio-classification": "{}ForAudioClassification",
}
# Heads that read one token of each text, or the class token of an image.
TEXT_LEVEL = ("sequence-classification", "multiple-choice", "image-classification")
# Heads for which the decoder of an encoder-decoder reads the text that its encoder has read.
READ_AGAIN = ("sequence-classification", "question-answering")
AVERAGED = ("audio-classification",)  # heads that read the mean of all positions
FIXED_SCORES = {"question-answering": 2, "multiple-choice": 1}  # start and end; one for each choice


class Head:
    """A frozen dataclass that builds the head's module."""

    @property
    def mean(self) -> bool:
        """Whether the head reads the mean over each text instead of the position itself."""
        return False

    @property
    def skip(self) -> int:
        """Positions at the start of a text that the mean leaves out."""
        return 0

    def build(self, width: int, vocab: int) -> Any:
        """`width` is that of the hidden states that the head reads."""
        raise NotImplementedError


@dataclass(frozen=True)
class Pooler(Head):
    """A dense layer on the first token (Devlin et al. 2018, section 3.1), or on every position that is read."""

    act: str
    dropout: float = 0.0  # on its input
    bias: bool = True
    norm: Part | None = None  # on its output

    def build(self, width: int, vocab: int) -> "PoolerLayer":
        return PoolerLayer(self, width)


class PoolerLayer(nnx.Module):
    def __init__(self, part: Pooler, width: int):
        self.part, self.act = part, ACTIVATIONS[known_activation(part.act)]
        self.dense = Linear(width, width, ("embed", None), part.bias)
        self.norm = part.norm.build(width) if part.norm else nnx.data(None)

    def __call__(
        self, hidden: jax.Array, tokens: Embedding, key: jax.Array | None, memory: jax.Array | None = None
    ) -> jax.Array:
        hidden = self.act(self.dense(dropout(hidden, self.part.dropout, key)))
        return hidden if self.norm is None else self.norm(hidden)


@dataclass(frozen=True)
class Classifier(Head):
    """Logits of `classes` at each position that is read, or one regression value if `classes` is 1."""

    classes: int
    pooler: Pooler | None = None
    bias: bool = True
    dropout: float = 0.0
    mean: bool = False
    skip: int = 0

    def build(self, width: int, vocab: int) -> "ClassifierLayer":
        return ClassifierLayer(self, width, vocab)


class ClassifierLayer(nnx.Module):
    def __init__(self, part: Classifier, width: int, vocab: int):
        self.rate = part.dropout
        self.pooler = part.pooler.build(width, vocab) if part.pooler else nnx.data(None)
        self.out = Linear(width, part.classes, ("embed", None), part.bias)

    def __call__(
        self, hidden: jax.Array, tokens: Embedding, key: jax.Array | None, memory: jax.Array | None = None
    ) -> jax.Array:
        if self.pooler is not None:
            hidden = self.pooler(hidden, tokens, fold_key(key, 1))
        return upcast(self.out(dropout(hidden, self.rate, fold_key(key, 0))))


@dataclass(frozen=True)
class MeanPoolClassifier(Head):
    """Logits of a whole recording: the mean of all its vectors, each projected to `width` first, is classified."""

    classes: int
    width: int

    def build(self, width: int, vocab: int) -> "MeanPoolClassifierLayer":
        return MeanPoolClassifierLayer(self, width)


class MeanPoolClassifierLayer(nnx.Module):
    def __init__(self, part: MeanPoolClassifier, width: int):
        self.project = Linear(width, part.width, ("embed", None))
        self.out = Linear(part.width, part.classes, ("embed", None))

    def __call__(
        self, hidden: jax.Array, tokens: Embedding, key: jax.Array | None, memory: jax.Array | None = None
    ) -> jax.Array:
        """From (batch, length, width) to (batch, 1, classes), float32."""
        return upcast(self.out(jnp.mean(self.project(hidden), 1, keepdims=True)))


@dataclass(frozen=True)
class Transform:
    """The dense layer and norm before the output layer of a masked language model."""

    act: str
    norm: LayerNorm
    width: int | None = None  # of its output; None: the model's
    bias: bool = True


@dataclass(frozen=True)
class LanguageModel(Head):
    """Logits of the vocabulary; the output matrix is the token embedding (tied), or its own."""

    tied: bool
    bias: bool | str  # or "fixed": a bias that does not train
    transform: Transform | None = None
    scale: float = 1.0  # of the logits
    softcap: float | None = None  # softcap * tanh(logits / softcap)

    def build(self, width: int, vocab: int) -> "LanguageModelLayer":
        return LanguageModelLayer(self, width, vocab)


class LanguageModelLayer(nnx.Module):
    def __init__(self, part: LanguageModel, width: int, vocab: int):
        self.part, inner = part, width
        if part.transform:
            inner = part.transform.width or width
            self.act = ACTIVATIONS[known_activation(part.transform.act)]
            self.dense = Linear(width, inner, ("embed", None), part.transform.bias)
            self.norm = part.transform.norm.build(inner)
        self.table = nnx.data(None) if part.tied else Embedding(vocab, inner, ("vocab", "embed"))
        fixed = part.bias == "fixed"
        self.bias = param((vocab,), ("vocab",), "bias", "zeros", fixed) if part.bias else nnx.data(None)

    def __call__(
        self, hidden: jax.Array, tokens: Embedding, key: jax.Array | None, memory: jax.Array | None = None
    ) -> LazyLogits:
        if self.part.transform:
            hidden = self.norm(self.act(self.dense(hidden)))
        if self.part.scale != 1.0:
            hidden = hidden * jnp.asarray(self.part.scale, hidden.dtype)
        table = tokens if self.table is None else self.table
        bias = None if self.bias is None else self.bias[...]
        return LazyLogits(hidden, table.embedding[...], bias, self.part.softcap)


@dataclass(frozen=True, kw_only=True)
class Pretraining(LanguageModel):
    """A masked language model with a second head, `pair`, on the relation of a text's two halves.

    Whether the second follows the first (Devlin et al. 2018, section 3.1), or their order (Lan et al. 2020, section
    3.1).
    """

    pair: Classifier

    def build(self, width: int, vocab: int) -> "PretrainingLayer":
        return PretrainingLayer(self, width, vocab)


class PretrainingLayer(LanguageModelLayer):
    """The model calls `pair`, which reads other positions: the batch's `pair_at`."""

    def __init__(self, part: Pretraining, width: int, vocab: int):
        super().__init__(part, width, vocab)
        self.pair = part.pair.build(width, vocab)


@dataclass(frozen=True)
class Contrast(Head):
    """The similarity of each text to each image of the batch (Radford et al. 2021, figure 3).

    Both are projected to `width` dimensions; the logit is their cosine similarity times a learned factor.
    """

    width: int
    image_width: int  # width of the encoder's output, whose first vector is the class token
    norm: Part  # of that vector
    scale: float  # initial logarithm of the factor

    def build(self, width: int, vocab: int) -> "ContrastLayer":
        return ContrastLayer(self, width)


class ContrastLayer(nnx.Module):
    def __init__(self, part: Contrast, width: int):
        self.norm = part.norm.build(part.image_width)
        self.text = Linear(width, part.width, ("embed", None), bias=False)
        self.image = Linear(part.image_width, part.width, ("embed", None), bias=False)
        self.scale = param((), (), "other", partial(np.full, fill_value=part.scale, dtype=np.float32))

    def __call__(
        self, hidden: jax.Array, tokens: Embedding, key: jax.Array | None, memory: jax.Array | None = None
    ) -> jax.Array:
        """(batch, predictions, images), float32; the images are those of the whole batch."""
        assert memory is not None, "a dual encoder has images"
        texts = unit(upcast(self.text(hidden)))
        images = unit(upcast(self.image(self.norm(memory[:, 0]))))
        return jnp.exp(self.scale[...]) * jnp.einsum("bsd,id->bsi", texts, images)


def unit(x: jax.Array) -> jax.Array:
    """The vectors of the last axis, scaled to length 1."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True))
