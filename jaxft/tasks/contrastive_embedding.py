"""Sentence embeddings: texts of similar meaning get similar vectors (Reimers and Gurevych 2019, section 3).

The texts of a row do not attend to each other. `matryoshka` lists widths: the first numbers of the vectors, that many,
are trained with the same loss as the full vectors, and all losses are added (Kusupati et al. 2022, eq. 1).
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import Count, Positive
from jaxft.data.example import Example, Row
from jaxft.metrics import Mean, regression_metrics
from jaxft.metrics.declared import Metric, higher
from jaxft.metrics.regression import REGRESSION
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.heads import unit
from jaxft.models.model import Outputs
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.labels import numbers_of
from jaxft.tasks.template import columns_of
from jaxft.tasks.vectors import SEARCH, Embeds, digests, search_metrics

NUDGE = 1e-6  # added to differences, as in PyTorch, so that the distance of equal vectors has a gradient


@config
class ContrastiveEmbedding(Embeds):
    """Trains each text's partner to be the nearest of all partners and negatives in the batch.

    The loss is the cross entropy of `scale` times the cosines (Henderson et al. 2017, section 4.4). With micro-batches,
    the negatives are those of one micro-batch. In the loss and in the metrics, texts that equal the text or its partner
    are not negatives, and neither are the partners that an equal text has in other rows.

    Metrics: `recall@1`, `recall@10`, `ndcg@10` and `mrr` of finding the partner among those of all rows; `accuracy`
    among those of a batch. Evaluation stores all vectors: memory grows with the evaluation set.
    """

    text: str = "anchor"  # column, or template
    pair: str = "positive"  # column, or template: the text's partner
    negative: str | None = None  # a hard negative of each row
    scale: Positive = 20.0  # factor of the cosines
    pooling: str | None = None  # of hidden states: mean, first, last; None: as in the model directory, else mean
    normalize: bool | None = None  # whether vectors get length 1; None: as in the model directory, else no
    matryoshka: tuple[Count, ...] = ()  # widths that are trained as well, from the first number of a vector

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text, self.pair) if self.negative is None else (self.text, self.pair, self.negative)

    def metrics(self) -> dict[str, Metric]:
        return Embeds.metrics(self) | higher("accuracy") | SEARCH

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        examples = self.encode_sub_texts(rows, setting)
        for example in examples:
            if not isinstance(example, str):
                example["digests"] = digests(example)
        return examples

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        vectors, valid = self.vectors(out, batch)
        size = len(self.texts)
        marks = batch["digests"][:, : batch["digests"].shape[1] // size * size].reshape(-1, size, 2)
        found = [self._nearest(unit(some), valid, marks) for some in self.widths(vectors)]
        return self.losses([errors for errors, _ in found], valid) | {"accuracy": Mean.of(found[0][1], valid)}

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return {"vectors": self.pooled(out, batch), "digests": batch["digests"]}

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        size = len(self.texts)
        vectors = outputs["vectors"].reshape(-1, size, outputs["vectors"].shape[-1])
        marks = outputs["digests"].reshape(-1, size, 2)
        return search_metrics(vectors[:, 0], vectors[:, 1], (marks[:, 0], marks[:, 1]))

    def _nearest(
        self, vectors_nkd: jax.Array, valid: jax.Array, marks: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The cross entropy (n,) of each row's partner among all texts, and 1 (n,) where it is the nearest.

        `marks` (n, k, m) are equal for equal texts only; None: use the vectors.
        """
        rows, texts, _ = vectors_nkd.shape
        scores = self.scale * vectors_nkd[:, 0] @ _partners_first(vectors_nkd[:, 1:]).T
        there = jnp.tile(valid, texts - 1) > 0
        right = _right(vectors_nkd if marks is None else marks) & ~jnp.eye(rows, rows * (texts - 1), dtype=bool)
        # Rows without an example get finite scores.
        scores = jnp.where((there & ~right) | (valid[:, None] == 0), scores, -jnp.inf)
        errors = -jnp.diagonal(jax.nn.log_softmax(scores))
        return errors, (jnp.diagonal(scores) >= scores.max(1)).astype(jnp.float32)


@config
class Triplet(Embeds):
    """Trains each text to be nearer to its partner than to a negative, by `margin` (Schroff et al. 2015, eq. 3).

    Distances are Euclidean. Metric: `accuracy`, the share of rows whose partner is nearer than the negative.
    """

    text: str = "anchor"  # column, or template
    pair: str = "positive"  # column, or template: the text's partner
    negative: str = "negative"  # column, or template
    margin: Positive = 5.0  # of the distances
    pooling: str | None = None  # as in ContrastiveEmbedding
    normalize: bool | None = None  # as in ContrastiveEmbedding
    matryoshka: tuple[Count, ...] = ()  # as in ContrastiveEmbedding

    @property
    def texts(self) -> tuple[str, ...]:
        return self.text, self.pair, self.negative

    def metrics(self) -> dict[str, Metric]:
        return Embeds.metrics(self) | higher("accuracy")

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        return [
            example
            if isinstance(example, str) or _is_negative(digests(example))
            else "the wrong text is one of the other two"
            for example in self.encode_sub_texts(rows, setting)
        ]

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        vectors, valid = self.vectors(out, batch)
        nearer = [_distance(some, 2) - _distance(some, 1) for some in self.widths(vectors)]
        errors = [jax.nn.relu(self.margin - by) for by in nearer]
        return self.losses(errors, valid) | {"accuracy": Mean.of((nearer[0] > 0).astype(jnp.float32), valid)}


@config
class Similarity(Embeds):
    """Trains the cosine of two texts' vectors to be their label, with the mean squared error.

    Metrics: `pearson` and `spearmanr` of the cosines with the labels, `mse`, `mae`.
    """

    text: str = "sentence1"  # column, or template
    pair: str = "sentence2"  # column, or template
    label: str = "score"  # column of numbers from -most to most
    most: Positive = 1.0  # the label of texts of equal meaning; 5 for STS-B
    pooling: str | None = None  # as in ContrastiveEmbedding
    normalize: bool | None = None  # as in ContrastiveEmbedding
    matryoshka: tuple[Count, ...] = ()  # as in ContrastiveEmbedding

    @property
    def texts(self) -> tuple[str, ...]:
        return self.text, self.pair

    def columns(self) -> list[str]:
        return columns_of(*self.texts, self.label)

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        fix = f"a number from {-self.most:g} to {self.most:g}: config.task.most is the label of texts of equal meaning"
        scores = numbers_of(rows, self.label, self.most, fix)
        examples = self.encode_sub_texts(rows, setting)
        for example, score in zip(examples, scores, strict=True):
            if not isinstance(example, str) and score is not None:
                example["targets"] = np.full(2, score / self.most, np.float32)
        return ["no label" if score is None else one for one, score in zip(examples, scores, strict=True)]

    def metrics(self) -> dict[str, Metric]:
        return Embeds.metrics(self) | REGRESSION

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        vectors, valid = self.vectors(out, batch)
        labels = batch["targets"][:, : batch["targets"].shape[1] // 2 * 2 : 2].reshape(-1)
        return self.losses([(_cosine(some) - labels) ** 2 for some in self.widths(vectors)], valid)

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return {"vectors": self.pooled(out, batch), "targets": batch["targets"]}

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        vectors = outputs["vectors"].reshape(-1, 2, outputs["vectors"].shape[-1])
        return regression_metrics(outputs["targets"][::2], np.asarray(_cosine(vectors)))


def _partners_first(others: jax.Array) -> jax.Array:
    """From (n, k, ...) to (k * n, ...): the first of every row, then the second of every row, and so on."""
    return jnp.moveaxis(others, 1, 0).reshape(-1, *others.shape[2:])


def _right(marks: jax.Array) -> jax.Array:
    """Which partners, and then which negatives, are no negatives for each row's first text: bool (n, n * (k - 1))."""

    def same(one: jax.Array, others: jax.Array) -> jax.Array:
        return jnp.all(one[:, None] == others[None], -1)

    others = _partners_first(marks[:, 1:])
    right = same(marks[:, 0], others) | same(marks[:, 1], others)
    return right.at[:, : len(marks)].set(right[:, : len(marks)] | same(marks[:, 0], marks[:, 0]))


def _is_negative(marks: np.ndarray) -> bool:
    return not np.any(np.all(marks[2] == marks[:2], -1))


def _cosine(vectors_n2d: jax.Array | np.ndarray) -> jax.Array:
    return jnp.sum(jnp.prod(unit(jnp.asarray(vectors_n2d)), 1), -1)


def _distance(vectors_nkd: jax.Array, other: int) -> jax.Array:
    """The Euclidean distance (n,) between the first text and the text `other` of each row."""
    return jnp.linalg.norm(vectors_nkd[:, 0] - vectors_nkd[:, other] + NUDGE, axis=-1)
