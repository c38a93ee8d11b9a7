"""Sentence embeddings: vectors that are near where texts mean the same (Reimers and Gurevych 2019, section 3).

The texts of a row do not see each other. With `matryoshka` the first so many numbers of the vectors learn the same as
the whole vectors do, and all losses are added (Kusupati et al. 2022, eq. 1).
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import Count, Positive
from jaxft.metrics import Mean, regression_metrics
from jaxft.metrics.declared import higher
from jaxft.metrics.regression import REGRESSION
from jaxft.models.heads import unit
from jaxft.tasks.labels import numbers_of
from jaxft.tasks.template import columns_of
from jaxft.tasks.vectors import SEARCH, Embeds, digests, pool, search_metrics

NUDGE = 1e-6  # added to differences, as in PyTorch: the distance of equal vectors has a gradient then


@config
class ContrastiveEmbedding(Embeds):
    """Each text's partner is to be the nearest among those of the whole batch, and among their wrong texts.

    Cross entropy of `scale` times the cosines (Henderson et al. 2017, section 4.4). With micro-batches the rows of one
    are compared, so that fewer texts are wrong ones. Not wrong are texts equal to the text or to its partner, and the
    partners that an equal text has in other rows, in the loss and in the metrics.

    Metrics: `recall@1`, `recall@10`, `ndcg@10` and `mrr` of finding the partner among those of all rows; `accuracy`
    among those of a batch. Memory grows with the evaluation set, whose vectors are kept.
    """

    text: str = "anchor"  # column, or template
    pair: str = "positive"
    negative: str | None = None  # of a text that is near, but wrong
    scale: Positive = 20.0
    pooling: str | None = None  # of the tokens' vectors: mean, first, last; None: as the model's directory, else mean
    normalize: bool | None = None  # whether vectors have length 1; None: as the model's directory, else no
    matryoshka: tuple[Count, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text, self.pair) if self.negative is None else (self.text, self.pair, self.negative)

    def metrics(self):
        return Embeds.metrics(self) | higher("accuracy") | SEARCH

    def encode(self, rows, setting):
        return [
            made if isinstance(made, str) else made | {"digests": digests(made)}
            for made in Embeds.encode(self, rows, setting)
        ]

    def loss(self, out, batch):
        vectors, valid = self.vectors(out, batch)
        size = len(self.texts)
        marks = batch["digests"][:, : batch["digests"].shape[1] // size * size].reshape(-1, size, 2)
        found = [self._nearest(unit(some), valid, marks) for some in self.cut(vectors)]
        return self.losses([errors for errors, _ in found], valid) | {"accuracy": Mean.of(found[0][1], valid)}

    def eval_outputs(self, out, batch):
        return {"vectors": pool(out.hidden, batch, self.pooling), "digests": batch["digests"]}

    def compute_metrics(self, sums, kept):
        size = len(self.texts)
        vectors = kept["vectors"].reshape(-1, size, kept["vectors"].shape[-1])
        marks = kept["digests"].reshape(-1, size, 2)
        return search_metrics(vectors[:, 0], vectors[:, 1], (marks[:, 0], marks[:, 1]))

    def _nearest(self, vectors_nkd: jax.Array, valid: jax.Array, marks=None) -> tuple[jax.Array, jax.Array]:
        """Cross entropy (n,) of each row's partner among all, and 1 where it is the nearest.

        `marks` (n, k, m) are the same for equal texts only; None: the vectors are.
        """
        rows, texts, _ = vectors_nkd.shape
        scores = self.scale * vectors_nkd[:, 0] @ _partners_first(vectors_nkd[:, 1:]).T
        there = jnp.tile(valid, texts - 1) > 0
        right = _right(vectors_nkd if marks is None else marks) & ~jnp.eye(rows, rows * (texts - 1), dtype=bool)
        # Rows without example: a finite number.
        scores = jnp.where((there & ~right) | (valid[:, None] == 0), scores, -jnp.inf)
        errors = -jnp.diagonal(jax.nn.log_softmax(scores))
        return errors, (jnp.diagonal(scores) >= scores.max(1)).astype(jnp.float32)


@config
class Triplet(Embeds):
    """A text is to be nearer to its partner than to a wrong text, by `margin` (Schroff et al. 2015, eq. 3).

    Distances are Euclidean. Metric: `accuracy`, the share of rows whose partner is the nearer one.
    """

    text: str = "anchor"  # column, or template
    pair: str = "positive"
    negative: str = "negative"
    margin: Positive = 5.0
    pooling: str | None = None  # as of ContrastiveEmbedding
    normalize: bool | None = None  # as of ContrastiveEmbedding
    matryoshka: tuple[Count, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return self.text, self.pair, self.negative

    def metrics(self):
        return Embeds.metrics(self) | higher("accuracy")

    def encode(self, rows, setting):
        return [
            made if isinstance(made, str) or _is_wrong(digests(made)) else "the wrong text is one of the other two"
            for made in Embeds.encode(self, rows, setting)
        ]

    def loss(self, out, batch):
        vectors, valid = self.vectors(out, batch)
        nearer = [_distance(some, 2) - _distance(some, 1) for some in self.cut(vectors)]
        errors = [jax.nn.relu(self.margin - by) for by in nearer]
        return self.losses(errors, valid) | {"accuracy": Mean.of((nearer[0] > 0).astype(jnp.float32), valid)}


@config
class Similarity(Embeds):
    """The cosine of two texts' vectors is to be their label, by the mean squared error.

    Metrics: `pearson` and `spearmanr` of the cosines with the labels, `mse`, `mae`.
    """

    text: str = "sentence1"  # column, or template
    pair: str = "sentence2"
    label: str = "score"  # column of numbers from -most to most
    most: Positive = 1.0  # the label of texts that mean the same: 5 of STS-B
    pooling: str | None = None  # as of ContrastiveEmbedding
    normalize: bool | None = None  # as of ContrastiveEmbedding
    matryoshka: tuple[Count, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return self.text, self.pair

    def columns(self):
        return columns_of(*self.texts, self.label)

    def encode(self, rows, setting):
        fix = (
            f"a number from {-self.most:g} to {self.most:g}: config.task.most is the label of texts that mean the same"
        )
        scores = numbers_of(rows, self.label, self.most, fix)
        return [
            "no label" if score is None else made if isinstance(made, str) else made | _twice(score / self.most)
            for made, score in zip(Embeds.encode(self, rows, setting), scores, strict=True)
        ]

    def metrics(self):
        return Embeds.metrics(self) | REGRESSION

    def loss(self, out, batch):
        vectors, valid = self.vectors(out, batch)
        labels = batch["targets"][:, : batch["targets"].shape[1] // 2 * 2 : 2].reshape(-1)
        return self.losses([(_cosine(some) - labels) ** 2 for some in self.cut(vectors)], valid)

    def eval_outputs(self, out, batch):
        return {"vectors": pool(out.hidden, batch, self.pooling), "targets": batch["targets"]}

    def compute_metrics(self, sums, kept):
        vectors = kept["vectors"].reshape(-1, 2, kept["vectors"].shape[-1])
        return regression_metrics(kept["targets"][::2], np.asarray(_cosine(vectors)))


def _partners_first(others: jax.Array) -> jax.Array:
    """(n * k, ...) of (n, k, ...): all that is first in its row, then all that is second."""
    return jnp.moveaxis(others, 1, 0).reshape(-1, *others.shape[2:])


def _right(marks: jax.Array) -> jax.Array:
    """Which partners, then which wrong texts, are not wrong for each row's first text: bool (n, n * (k - 1))."""

    def same(one, others):
        return jnp.all(one[:, None] == others[None], -1)

    others = _partners_first(marks[:, 1:])
    right = same(marks[:, 0], others) | same(marks[:, 1], others)
    return right.at[:, : len(marks)].set(right[:, : len(marks)] | same(marks[:, 0], marks[:, 0]))


def _is_wrong(marks: np.ndarray) -> bool:
    return not np.any(np.all(marks[2] == marks[:2], -1))


def _twice(score: float) -> dict[str, np.ndarray]:
    return {"targets": np.full(2, score, np.float32)}


def _cosine(vectors_n2d) -> jax.Array:
    return jnp.sum(jnp.prod(unit(vectors_n2d), 1), -1)


def _distance(vectors_nkd, other: int) -> jax.Array:
    """Euclidean distance (n,) of each row's first text to another one."""
    return jnp.linalg.norm(vectors_nkd[:, 0] - vectors_nkd[:, other] + NUDGE, axis=-1)
