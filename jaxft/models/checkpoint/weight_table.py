"""Reversible tables between a checkpoint's tensor names and the model's parameter names.

A `WeightRule` names a module on both sides; its `Layout` lists the module's tensors and how their arrays correspond.
The same rules read a checkpoint and write one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from jaxft.models.heads import KINDS, Classifier, LanguageModel, Pooler, Pretraining, Transform


@dataclass(frozen=True)
class Family:
    """All that a family's file says: its FAMILY. The functions get a ConfigReader."""

    prefix: str  # of the backbone's tensors in a checkpoint with a head
    architectures: dict[str, str]  # head -> transformers' class
    spec: Callable  # c -> Spec
    rows: Callable  # c -> rows of the backbone, without the prefix
    # (c, head, classes) -> the head's part with so many classes, its rows, and tensors that repeat others: name -> the
    # one that counts
    head: Callable
    buffers: tuple[str, ...] = ()  # patterns of tensors that are no parameters
    other_heads: tuple[str, ...] = ()  # and of those that may stand beside the head asked for
    prefixes: tuple[tuple[str, str], ...] = ()  # (head, its prefix), where that is another
    # (head, "encoder" or "decoder", table of tokens), where a head has but one side of an encoder-decoder
    sides: tuple[tuple[str, str, str | None], ...] = ()

    @property
    def all_prefixes(self) -> list[str]:
        """Every prefix that tensors of the backbone may have; the usual one first."""
        return [self.prefix, *dict(self.prefixes).values()]

    def base(self, name: str) -> str:
        """A tensor's name without the backbone's prefix, whatever head it was saved with."""
        found = [prefix for prefix in self.all_prefixes if name.startswith(prefix)]
        return name.removeprefix(max(found, key=len, default=""))


# What most encoders have in transformers.
ENCODER_HEADS = "none sequence-classification token-classification question-answering multiple-choice masked-lm"


def architectures(name: str, heads: str) -> dict[str, str]:
    """Head -> transformers' class; `heads` are names of heads in a row."""
    return {head: KINDS[head].format(name) for head in heads.split()}


class TensorMap(NamedTuple):
    """One tensor of a checkpoint and the parameter(s) that it becomes."""

    theirs: str
    ours: tuple[str, ...]
    how: "Layout"
    aliases: tuple[str, ...] = ()  # older names of the same tensor
    row: int | None = None  # of the parameter, where that holds several tensors


class Layout(Protocol):
    """How a module's arrays correspond. `split` and `join` are inverses and work on views: nothing is copied."""

    def tensors(self, theirs: str, ours: str) -> list[TensorMap]: ...
    def split(self, array: np.ndarray, widths: list[int]) -> list[np.ndarray]: ...
    def join(self, arrays: list[np.ndarray]) -> np.ndarray: ...


class WeightRule(NamedTuple):
    """`theirs` is a module's name in the checkpoint, `ours` its name in jaxft; `{i}` stands for the layer's number.

    An encoder's names in jaxft begin with `encoder.` where it stands before a decoder.
    """

    theirs: str
    ours: str
    how: "Layout"

    def entries(self, layers: int, encoder_layers: int = 0) -> list[TensorMap]:
        if "{i}" not in self.ours:
            return self.how.tensors(self.theirs, self.ours)
        layers = encoder_layers if self.ours.startswith("encoder.") else layers
        return [
            entry
            for i in range(layers)
            for entry in self.how.tensors(self.theirs.replace("{i}", str(i)), self.ours.replace("{i}", str(i)))
        ]


class _OneToOne:
    """A How whose tensors have one parameter each, stored alike."""

    def split(self, array, widths):
        return [array]

    def join(self, arrays):
        return arrays[0]


@dataclass(frozen=True)
class Renamed(_OneToOne):
    """Tensors stored alike under other names: pairs of (their suffix, our suffix); `older` are former suffixes."""

    pairs: tuple[tuple[str, str], ...]
    older: tuple[tuple[str, str], ...] = ()

    def tensors(self, theirs, ours):
        older = dict(self.older)
        return [
            TensorMap(theirs + a, (ours + b,), self, (theirs + older[a],) if a in older else ()) for a, b in self.pairs
        ]


@dataclass(frozen=True)
class Transposed(_OneToOne):
    """A weight matrix that PyTorch keeps as (outputs, inputs)."""

    def tensors(self, theirs, ours):
        return [TensorMap(theirs + ".weight", (ours + ".kernel",), self), *LINEAR_BIAS.tensors(theirs, ours)]

    def split(self, array, widths):
        return [array.T]

    def join(self, arrays):
        return arrays[0].T


@dataclass(frozen=True)
class Fused:
    """Several linear maps kept as one: an (inputs, outputs of all) matrix, or where `turned` its transpose.

    With `groups`, the outputs are that many groups, each of which has a share of every map, one behind the other.
    """

    parts: tuple[str, ...]
    turned: bool = True
    groups: int = 1

    def tensors(self, theirs, ours):
        prefix, _, _ = ours.rpartition(".")
        return [
            TensorMap(f"{theirs}.{a}", tuple(f"{prefix}.{part}.{b}" for part in self.parts), self)
            for a, b in (("weight", "kernel"), ("bias", "bias"))
        ]

    def split(self, array, widths):
        array = array.T if self.turned else array
        if array.shape[-1] != sum(widths):
            return [array] * len(widths)  # none has the shape that it should have, as the caller will find
        grouped = array.reshape(*array.shape[:-1], self.groups, -1)
        cuts = np.cumsum([width // self.groups for width in widths])[:-1]
        return [part.reshape(*array.shape[:-1], -1) for part in np.split(grouped, cuts, axis=-1)]

    def join(self, arrays):
        grouped = [array.reshape(*array.shape[:-1], self.groups, -1) for array in arrays]
        array = np.concatenate(grouped, axis=-1).reshape(*arrays[0].shape[:-1], -1)
        return array.T if self.turned else array


@dataclass(frozen=True)
class StackedExperts(_OneToOne):
    """A linear map for each of `count` experts, stored one by one; `{e}` stands for the expert's number."""

    count: int

    def tensors(self, theirs, ours):
        name = theirs + ".weight"
        return [TensorMap(name.replace("{e}", str(e)), (ours + ".kernel",), self, row=e) for e in range(self.count)]

    def split(self, array, widths):
        return [array.T]

    def join(self, arrays):
        return arrays[0].T


@dataclass(frozen=True)
class Interleaved:
    """Maps whose outputs take turns; tensors and parameters are stored alike. Pairs of (their suffix, ours)."""

    parts: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    def tensors(self, theirs, ours):
        prefix, _, _ = ours.rpartition(".")
        return [TensorMap(theirs + a, tuple(f"{prefix}.{part}{b}" for part in self.parts), self) for a, b in self.pairs]

    def split(self, array, widths):
        return [array[..., i :: len(self.parts)] for i in range(len(self.parts))]

    def join(self, arrays):
        return np.stack(arrays, -1).reshape(*arrays[0].shape[:-1], -1)


@dataclass(frozen=True)
class Unsqueezed(_OneToOne):
    """A tensor that is kept with so many leading axes of 1."""

    axes: int

    def tensors(self, theirs, ours):
        return [TensorMap(theirs, (ours,), self)]

    def split(self, array, widths):
        return [array.reshape(array.shape[self.axes :]) if array.shape[: self.axes] == (1,) * self.axes else array]

    def join(self, arrays):
        return arrays[0][(None,) * self.axes]


@dataclass(frozen=True)
class ConvPatch(Transposed):
    """A linear map of patches of an image, that PyTorch keeps as (outputs, channels, height, width)."""

    shape: tuple[int, int, int]

    def split(self, array, widths):
        return [array.reshape(len(array), -1).T]

    def join(self, arrays):
        return arrays[0].T.reshape(-1, *self.shape)


LINEAR_BIAS = Renamed(((".bias", ".bias"),))
linear = Transposed()
conv1d = Renamed(((".weight", ".kernel"), (".bias", ".bias")))
embedding = Renamed(((".weight", ".embedding"),))
# TensorFlow-era BERT checkpoints call a LayerNorm's tensors gamma and beta.
norm = Renamed(((".weight", ".scale"), (".bias", ".bias")), ((".weight", ".gamma"), (".bias", ".beta")))
tensor = Renamed((("", ""),))
distances = Renamed(((".weight", ".scores"),))
one_row = Unsqueezed(1)


def decoder_head(tokens: str, output: str = "lm_head", token_classifier: str = "classifier", tied: bool = True):
    """The `head` of a family of decoders.

    `tokens` is the full name of the embeddings, `output` that of the language model's matrix; `tied` is what an absent
    `tie_word_embeddings` means.
    """

    def head(c, kind: str, classes: int, **scores):
        """`scores` are further fields of the language model's head."""
        ties = c.get(
            "tie_word_embeddings", tied
        )  # read for every head: where there is no output matrix it says nothing
        if kind == "none":
            return None, [], {}
        if kind == "sequence-classification":
            return Classifier(classes, bias=False), [WeightRule("score", "head.out", linear)], {}
        if kind == "token-classification":
            rate = c.get("classifier_dropout", c.get("hidden_dropout", 0.1))
            return Classifier(classes, dropout=rate), [WeightRule(token_classifier, "head.out", linear)], {}
        if kind == "question-answering":
            return Classifier(classes), [WeightRule("qa_outputs", "head.out", linear)], {}
        repeats = {output + ".weight": tokens + ".weight"} if ties else {}
        return LanguageModel(ties, False, **scores), [WeightRule(output, "head.table", embedding)], repeats

    return head


def rereading_head(c, kind: str, classes: int):
    """The part and rows of the heads of an encoder-decoder that writes nothing: its decoder reads the text again."""
    if kind == "sequence-classification":
        rate = c.get("classifier_dropout", 0.0)
        rows = [
            WeightRule("classification_head.dense", "head.pooler.dense", linear),
            WeightRule("classification_head.out_proj", "head.out", linear),
        ]
        return Classifier(classes, Pooler("tanh", rate), dropout=rate), rows
    if kind == "question-answering":
        return Classifier(classes), [WeightRule("qa_outputs", "head.out", linear)]
    return None, []


def masked_lm_head(tied: bool, transform: Transform, tokens, dense, behind, output, bias, biased: bool = True):
    """What a family's `head` returns for a masked language model, of full names in the checkpoint.

    `tokens` are the embeddings, to which the matrix of `output` is tied or not; `dense` and the norm `behind` it are
    the transform's; `bias` is the tensor that counts, if not `output`'s own, which then repeats it.
    """
    rows = [
        WeightRule(dense, "head.dense", linear),
        WeightRule(behind, "head.norm", norm),
        WeightRule(bias, "head.bias", tensor),
        WeightRule(output, "head.table", embedding),
    ]
    repeats = {} if bias == output + ".bias" else {output + ".bias": bias}
    if tied:
        repeats[output + ".weight"] = tokens + ".weight"
    return LanguageModel(tied, biased, transform), rows, repeats


def pretraining_head(masked_lm, pair: Classifier, pooler: str, output: str):
    """What a family's `head` returns for a masked language model, `masked_lm`, with the scores of pairs beside it."""
    part, rows, repeats = masked_lm
    rows = [*rows, WeightRule(pooler, "head.pair.pooler.dense", linear), WeightRule(output, "head.pair.out", linear)]
    return Pretraining(**vars(part), pair=pair), rows, repeats
