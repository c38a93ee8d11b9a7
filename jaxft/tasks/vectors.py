"""Vectors of texts: the base class of embedding tasks, pooling, and metrics of search."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.example import Example, Row
from jaxft.inference.settings import Inference, reads
from jaxft.metrics import Mean
from jaxft.metrics.declared import Metric, higher, lower
from jaxft.metrics.retrieval import retrieval_metrics
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.checkpoint.sentence_embedding import DenseModule
from jaxft.models.checkpoint.sentence_transformers import embedding_files
from jaxft.models.heads import unit
from jaxft.models.layers.basic import masked_mean
from jaxft.models.layers.tokens import gather_at
from jaxft.models.model import Outputs
from jaxft.problems import raise_problems, suggest, truncated_repr
from jaxft.tasks.base import EncodingContext, Task, encode_texts, join_sub_texts
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import column, columns_of

log = logging.getLogger("jaxft")

# Our names of pooling modes -> those of sentence-transformers.
POOLINGS = {"mean": "mean", "first": "cls", "last": "lasttoken"}
SEARCH = higher("recall@1", "recall@10", "ndcg@10", "mrr")
NEAREST = 1024  # texts that are compared with all others at the same time


class Embeds(Task):
    """Base class of tasks that learn vectors of texts."""

    __slots__ = ()
    head = "none"
    pooling: str | None
    normalize: bool | None
    matryoshka: tuple[int, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns, or templates, of the texts of a row."""
        raise NotImplementedError

    @property
    def hidden(self) -> str:
        return "all" if self.pooling in (None, "mean") else "read"

    def problems(self) -> list[str]:
        if self.pooling in (None, *POOLINGS):
            return []
        known = " or ".join(POOLINGS)
        return [f"pooling is {truncated_repr(self.pooling)}, expected {known}.{suggest(str(self.pooling), POOLINGS)}"]

    def columns(self) -> list[str]:
        return columns_of(*self.texts)

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        if setting.max_len is None:
            raise_problems(
                [
                    "each text needs a vector, so that texts cannot be cut into chunks: use Pad or Pack for "
                    "config.batching"
                ]
            )
        return self.resolved(setting)

    def resolved(self, setting: EncodingContext) -> Self:
        """The task with the pooling and the normalisation of the model directory, if the task does not set them.

        Raises UserError for modules of the directory that cannot be trained.
        """
        base = setting.embedding
        if base is None:
            raise ValueError("an embedding task needs the embedding modules of the model directory")
        own = {mode: pooling for pooling, mode in POOLINGS.items()}
        problems = [
            f"{base.directory} has a Dense module, which these tasks do not train: remove it from modules.json, or "
            "train the model with sentence-transformers"
        ] * any(isinstance(layer, DenseModule) for layer in base.layers)
        if self.pooling is None and (len(base.pooling) > 1 or base.pooling[0] not in own):
            problems.append(
                f"{base.directory} pools by {', '.join(base.pooling)}, which these tasks do not train: set "
                f"config.task.pooling to {' or '.join(POOLINGS)}"
            )
        raise_problems(problems)
        pooling = self.pooling or own[base.pooling[0]]
        normalize = bool(base.layers) if self.normalize is None else self.normalize
        if base.files and (POOLINGS[pooling],) != base.pooling:
            log.warning("%s pools by %s: the task's pooling is %s", base.directory, ", ".join(base.pooling), pooling)
        if base.files and normalize != bool(base.layers):
            log.warning("%s: normalize is %s, unlike in the model directory", base.directory, normalize)
        if base.default_prompt:
            log.warning(
                "%s puts the prompt %r in front of texts, training does not: write it into the task's templates",
                base.directory,
                base.prompts[base.default_prompt],
            )
        task: Any = self  # a dataclass, as all subclasses are
        return replace(task, pooling=pooling, normalize=normalize)

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        return self.encode_sub_texts(rows, setting)

    def encode_sub_texts(self, rows: list[Row], setting: EncodingContext) -> list[Example | str]:
        """For each row an example with a prediction for each of its texts, or why the row is left out."""
        encoded = [encode_texts(setting, column(rows, name), None) for name in self.texts]
        pool_token = "last" if self.pooling == "last" else "first"
        return [join_sub_texts(some, pool_token) for some in zip(*encoded, strict=True)]

    def max_predictions(self, length: int) -> int | None:
        return len(self.texts)

    def metrics(self) -> dict[str, Metric]:
        return lower("loss", "weighted_loss") if self.matryoshka else lower("loss")

    def losses(self, errors: list[jax.Array], valid: jax.Array) -> dict[str, Mean]:
        """`loss` from the errors (n,) of the full vectors, which come first; `weighted_loss` is the sum for all "
        "widths."""
        plain = {"loss": Mean.of(errors[0], valid)}
        return plain | {"weighted_loss": Mean.of(sum(errors[1:], errors[0]), valid)} if self.matryoshka else plain

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        return {}

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        """Each text is read by itself; by default the first text of a row."""
        return reads(self, self.texts[0])

    def model_files(self, setting: EncodingContext, width: int) -> dict[str, str]:
        """The files of sentence-transformers, which `predict` reads as well."""
        if setting.embedding is None or setting.max_len is None or self.pooling is None:
            raise ValueError("the files are those of a task that `prepare` has resolved")
        pooling, normalize = POOLINGS[self.pooling], bool(self.normalize)
        return embedding_files(setting.embedding, pooling, normalize, width, setting.max_len)

    def pooled(self, out: Outputs, batch: Batch) -> jax.Array:
        """The vector of each prediction's text, float32 (rows, predictions, width)."""
        return pool(out.hidden, batch, self.pooling)

    def vectors(self, out: Outputs, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The vectors, float32 (n, texts, width), of the n examples that rows can hold, and their weights (n,)."""
        found, size = self.pooled(out, batch), len(self.texts)
        whole = found.shape[1] // size * size  # a packed row may have further predictions, too few for an example
        found = found[:, :whole].reshape(-1, size, found.shape[-1])
        found = unit(found) if self.normalize else found
        return found, batch["weights"][:, :whole:size].reshape(-1)

    def widths(self, vectors: jax.Array) -> list[jax.Array]:
        """The full vectors, and those of the widths that `matryoshka` names."""
        return [vectors, *(vectors[..., :width] for width in self.matryoshka)]


def pool(hidden: jax.Array, batch: Batch, pooling: str | None) -> jax.Array:
    """The vector of each prediction's text, float32 (rows, predictions, width): the mean of its tokens, or one of them.

    `hidden` is (rows, length, width), or (rows, predictions, width) if the last layer was computed at `at` only.
    """
    if pooling != "mean":
        return (hidden if hidden.shape[1] == batch["at"].shape[1] else gather_at(hidden, batch["at"])).astype(
            jnp.float32
        )
    return masked_mean(hidden, batch["segments"], batch["at"])


def digests(example: Example) -> np.ndarray:
    """int32 (texts, 2): a 64-bit hash of the tokens of each sub-text of an example."""
    ends = np.cumsum(np.bincount(example["sub_texts"]))
    texts = np.split(example["tokens"], ends[:-1])
    return np.array([np.frombuffer(blake2b(text.tobytes(), digest_size=8).digest(), np.int32) for text in texts])


def search_metrics(
    texts: np.ndarray, partners: np.ndarray, marks: tuple[np.ndarray, np.ndarray] | None = None
) -> dict[str, float]:
    """recall@1, recall@10, ndcg@10 and mrr of finding each text's partner among all partners by the cosine.

    Both are (n, width). `marks` are hashes of the texts and of the partners, (n, m) each; None: use the
    vectors. Partners that equal the text or its partner are not searched, and neither are those of an equal text in
    other rows.
    """
    one, other = np.split(np.unique(np.concatenate(marks or (texts, partners)), axis=0, return_inverse=True)[1], 2)
    texts, partners = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (texts, partners))
    sums: Counter[str] = Counter()
    for start in range(0, len(texts), NEAREST):
        mine, its = (x[start : start + NEAREST, None] for x in (one, other))
        own = np.eye(len(mine), len(partners), start)
        right = ((its == other) | (mine == other) | (mine == one)) & (own == 0)
        scores = np.where(right, -np.inf, texts[start : start + NEAREST] @ partners.T)
        found = retrieval_metrics(scores, own)
        sums.update({name: found[name] * len(scores) for name in SEARCH})
    return {name: value / len(texts) for name, value in sums.items()}
