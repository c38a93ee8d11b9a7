"""What stands on top of a backbone: nothing, a classifier, or a language model's output layer.

A head reads the hidden states at the positions `at` (batch, slots); without `at` it reads every position. `memory` is
an encoder's result.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

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

# Heads that exist so far, by their names of CONTRACT.md, and how transformers names a model's class with each.
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
# Heads that read one token of each text, or what stands for an image.
TEXT_LEVEL = ("sequence-classification", "multiple-choice", "image-classification")
# Heads for which the decoder of an encoder-decoder reads the text that its encoder has read.
READ_AGAIN = ("sequence-classification", "question-answering")
AVERAGED = ("audio-classification",)  # heads that read all of it at once
FIXED_SCORES = {"question-answering": 2, "multiple-choice": 1}  # start and end; one for each choice


class Head:
    """What all heads have. A head is a frozen dataclass with `build(width, vocab)`."""

    mean: ClassVar[bool] = False  # it reads the mean over each text, not the position itself
    skip: ClassVar[int] = 0  # positions at a text's start that the mean leaves out


@dataclass(frozen=True)
class Pooler(Head):
    """A dense layer on the first token (Devlin et al. 2018, section 3.1), or on every token that is read."""

    act: str
    dropout: float = 0.0  # on what comes in
    bias: bool = True
    norm: Part | None = None  # of the result

    def build(self, width, vocab):
        return PoolerLayer(self, width)


class PoolerLayer(nnx.Module):
    def __init__(self, part: Pooler, width: int):
        self.part, self.act = part, ACTIVATIONS[known_activation(part.act)]
        self.dense = Linear(width, width, ("embed", None), part.bias)
        self.norm = part.norm.build(width) if part.norm else nnx.data(None)

    def __call__(self, hidden, tokens: Embedding, key, memory=None):
        hidden = self.act(self.dense(dropout(hidden, self.part.dropout, key)))
        return hidden if self.norm is None else self.norm(hidden)


@dataclass(frozen=True)
class Classifier(Head):
    """Scores of `classes` at each position that is read, or one regression value where `classes` is 1."""

    classes: int
    pooler: Pooler | None = None
    bias: bool = True
    dropout: float = 0.0
    mean: bool = False  # it reads the mean over each text, not the position itself
    skip: int = 0  # positions at a text's start that the mean leaves out

    def build(self, width, vocab):
        return ClassifierLayer(self, width, vocab)


class ClassifierLayer(nnx.Module):
    def __init__(self, part: Classifier, width: int, vocab: int):
        self.rate = part.dropout
        self.pooler = part.pooler.build(width, vocab) if part.pooler else nnx.data(None)
        self.out = Linear(width, part.classes, ("embed", None), part.bias)

    def __call__(self, hidden, tokens: Embedding, key, memory=None):
        if self.pooler is not None:
            hidden = self.pooler(hidden, tokens, fold_key(key, 1))
        return upcast(self.out(dropout(hidden, self.rate, fold_key(key, 0))))


@dataclass(frozen=True)
class MeanPoolClassifier(Head):
    """Scores of a whole sound: of the mean of all its vectors, each mapped to another `width` before."""

    classes: int
    width: int

    def build(self, width, vocab):
        return MeanPoolClassifierLayer(self, width)


class MeanPoolClassifierLayer(nnx.Module):
    def __init__(self, part: MeanPoolClassifier, width: int):
        self.project = Linear(width, part.width, ("embed", None))
        self.out = Linear(part.width, part.classes, ("embed", None))

    def __call__(self, hidden, tokens: Embedding, key, memory=None):
        """From (batch, length, width) to (batch, 1, classes), float32."""
        return upcast(self.out(jnp.mean(self.project(hidden), 1, keepdims=True)))


@dataclass(frozen=True)
class Transform:
    """The dense layer and norm before a masked language model's output layer."""

    act: str
    norm: LayerNorm
    width: int | None = None  # of its result; None: the model's
    bias: bool = True


@dataclass(frozen=True)
class LanguageModel(Head):
    """A score for every entry of the vocabulary; tied to the token embeddings, or with a matrix of its own."""

    tied: bool
    bias: bool | str  # or "fixed": one that does not train
    transform: Transform | None = None
    scale: float = 1.0  # of the scores
    softcap: float | None = None  # scores bend towards it

    def build(self, width, vocab):
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

    def __call__(self, hidden, tokens: Embedding, key, memory=None):
        if self.part.transform:
            hidden = self.norm(self.act(self.dense(hidden)))
        if self.part.scale != 1.0:
            hidden = hidden * jnp.asarray(self.part.scale, hidden.dtype)
        table = tokens if self.table is None else self.table
        bias = None if self.bias is None else self.bias[...]
        return LazyLogits(hidden, table.embedding[...], bias, self.part.softcap)


@dataclass(frozen=True, kw_only=True)
class Pretraining(LanguageModel):
    """A masked language model and, beside it, scores of how the two halves of a text belong together.

    Devlin et al. 2018, section 3.1: whether the second follows the first; Lan et al. 2020, section 3.1: their order.
    """

    pair: Classifier

    def build(self, width, vocab):
        return PretrainingLayer(self, width, vocab)


class PretrainingLayer(LanguageModelLayer):
    """`pair` reads other positions, the batch's `pair_at`; the model calls it."""

    def __init__(self, part: Pretraining, width: int, vocab: int):
        super().__init__(part, width, vocab)
        self.pair = part.pair.build(width, vocab)


@dataclass(frozen=True)
class Contrast(Head):
    """How near each text is to each image of the batch (Radford et al. 2021, figure 3).

    Both are mapped to `width` numbers; the score is the cosine of the angle between them, times a learned factor.
    """

    width: int
    source: int  # width of the encoder's result, whose first vector stands for the image
    norm: Part  # of that vector
    scale: float  # logarithm of the factor, at first

    def build(self, width, vocab):
        return ContrastLayer(self, width)


class ContrastLayer(nnx.Module):
    def __init__(self, part: Contrast, width: int):
        self.norm = part.norm.build(part.source)
        self.text = Linear(width, part.width, ("embed", None), bias=False)
        self.image = Linear(part.source, part.width, ("embed", None), bias=False)
        self.scale = param((), (), "other", partial(np.full, fill_value=part.scale, dtype=np.float32))

    def __call__(self, hidden, tokens: Embedding, key, memory=None):
        """(batch, slots, images), float32; the images are those of the whole batch."""
        texts = unit(upcast(self.text(hidden)))
        images = unit(upcast(self.image(self.norm(memory[:, 0]))))
        return jnp.exp(self.scale[...]) * jnp.einsum("bsd,id->bsi", texts, images)


def unit(x: jax.Array) -> jax.Array:
    """The vectors of the last axis, of length 1."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True))
