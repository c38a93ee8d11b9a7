"""What stands on top of a backbone: nothing, a classifier, or a language model's output layer.

A head reads the hidden states at the positions `at` (batch, slots); without `at` it reads every position.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx

from jaxft.models.dropout import dropout
from jaxft.models.parts import ACTIVATIONS, LayerNorm, Linear, Table, param, subkey
from jaxft.models.vocabulary import Vocabulary

# The names of CONTRACT.md for the heads that exist so far.
KINDS = ("none", "sequence-classification", "masked-lm", "causal-lm")


@dataclass(frozen=True)
class Pooler:
    """A dense layer on the first token (Devlin et al. 2018, section 3.1)."""

    act: str

    def build(self, width, vocab):
        return PoolerLayer(self, width)


class PoolerLayer(nnx.Module):
    def __init__(self, part: Pooler, width: int):
        self.act = part.act
        self.dense = Linear(width, width, ("embed", None))

    def __call__(self, hidden, tokens: Table, key):
        return ACTIVATIONS[self.act](self.dense(hidden))


@dataclass(frozen=True)
class Classifier:
    """Scores of `classes` per text, or one regression value where `classes` is 1."""

    classes: int
    pooler: Pooler | None
    bias: bool
    dropout: float

    def build(self, width, vocab):
        return ClassifierLayer(self, width, vocab)


class ClassifierLayer(nnx.Module):
    def __init__(self, part: Classifier, width: int, vocab: int):
        self.rate = part.dropout
        self.pooler = part.pooler.build(width, vocab) if part.pooler else nnx.data(None)
        self.out = Linear(width, part.classes, ("embed", None), part.bias)

    def __call__(self, hidden, tokens: Table, key):
        if self.pooler is not None:
            hidden = self.pooler(hidden, tokens, key)
        return self.out(dropout(hidden, self.rate, subkey(key, 0))).astype(jnp.float32)


@dataclass(frozen=True)
class Transform:
    """The dense layer and norm before a masked language model's output layer."""

    act: str
    norm: LayerNorm


@dataclass(frozen=True)
class LanguageModel:
    """A score for every entry of the vocabulary; tied to the token embeddings, or with a matrix of its own."""

    tied: bool
    bias: bool
    transform: Transform | None = None

    def build(self, width, vocab):
        return LanguageModelLayer(self, width, vocab)


class LanguageModelLayer(nnx.Module):
    def __init__(self, part: LanguageModel, width: int, vocab: int):
        self.transform = part.transform
        if part.transform:
            self.dense = Linear(width, width, ("embed", None))
            self.norm = part.transform.norm.build(width)
        self.table = nnx.data(None) if part.tied else Table(vocab, width, ("vocab", "embed"))
        self.bias = param((vocab,), ("vocab",), "zeros") if part.bias else nnx.data(None)

    def __call__(self, hidden, tokens: Table, key):
        if self.transform:
            hidden = self.norm(ACTIVATIONS[self.transform.act](self.dense(hidden)))
        table = tokens if self.table is None else self.table
        return Vocabulary(hidden, table.embedding[...], None if self.bias is None else self.bias[...])
