"""Vectors of texts: the texts of a row as one example, a vector for each of them, and what that asks of a task."""

import logging
from collections import Counter
from dataclasses import replace
from hashlib import blake2b

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.inference.settings import reads
from jaxft.metrics import Mean
from jaxft.metrics.declared import higher, lower
from jaxft.metrics.retrieval import retrieval_metrics
from jaxft.models.checkpoint.sentence_transformers import embedding_files
from jaxft.models.heads import unit
from jaxft.models.layers.basic import masked_mean
from jaxft.models.layers.tokens import gather_at
from jaxft.models.model import Outputs
from jaxft.problems import raise_problems, suggest, truncated_repr
from jaxft.tasks.base import Example, Task, as_parts, encode_texts
from jaxft.tasks.template import column, columns_of

log = logging.getLogger("jaxft")

# Pooling, and what sentence-transformers calls it.
POOLINGS = {"mean": "mean", "first": "cls", "last": "lasttoken"}
SEARCH = higher("recall@1", "recall@10", "ndcg@10", "mrr")
NEAREST = 1024  # texts that are compared with all others at once


class Embeds(Task):
    """What tasks share that learn vectors; each has fields `pooling`, `normalize` and `matryoshka`, and `texts`, its
    columns."""

    __slots__ = ()
    head = "none"

    @property
    def hidden(self) -> str:
        return "all" if self.pooling in (None, "mean") else "read"

    def problems(self):
        if self.pooling in (None, *POOLINGS):
            return []
        known = " or ".join(POOLINGS)
        return [f"pooling is {truncated_repr(self.pooling)}, expected {known}.{suggest(self.pooling, POOLINGS)}"]

    def columns(self):
        return columns_of(*self.texts)

    def prepare(self, rows, setting):
        if setting.max_len is None:
            raise_problems(["each text gets a vector, running text has none: use Pad or Pack for config.batching"])
        return self.resolved(setting)

    def resolved(self, setting):
        """With the pooling and the normalisation of the model's directory, where the task does not set them.

        Raises UserError for what the directory has and training has not.
        """
        base = setting.embedding
        own = {mode: pooling for pooling, mode in POOLINGS.items()}
        problems = [
            f"{base.directory} has a Dense module, which these tasks do not train: take the model without it (remove "
            "it from modules.json), or train it with sentence-transformers"
        ] * any(hasattr(layer, "weight") for layer in base.layers)
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
            log.warning("%s: normalize is %s, other than in the model's directory", base.directory, normalize)
        if base.default_prompt:
            log.warning(
                "%s puts the prompt %r in front of texts: training does not, write it into the task's templates",
                base.directory,
                base.prompts[base.default_prompt],
            )
        return replace(self, pooling=pooling, normalize=normalize)

    def encode(self, rows, setting):
        encoded = [encode_texts(setting, column(rows, name), None) for name in self.texts]
        reads = "last" if self.pooling == "last" else "first"
        return [as_parts(some, reads) for some in zip(*encoded, strict=True)]

    def slots(self, length):
        return len(self.texts)

    def metrics(self):
        return lower("loss", "weighted_loss") if self.matryoshka else lower("loss")

    def losses(self, errors: list[jax.Array], valid: jax.Array) -> dict[str, Mean]:
        """`loss` of the whole vectors, whose errors (n,) come first; `weighted_loss` adds up those of all widths."""
        plain = {"loss": Mean.of(errors[0], valid)}
        return plain | {"weighted_loss": Mean.of(sum(errors), valid)} if self.matryoshka else plain

    def compute_metrics(self, sums, kept):
        return {}

    def inference(self, results):
        """Each text is read by itself: by default the first one of a row."""
        return reads(self, self.texts[0])

    def model_files(self, setting, width):
        """What sentence-transformers needs beside the model, and what `predict` reads."""
        return embedding_files(setting.embedding, POOLINGS[self.pooling], self.normalize, width, setting.max_len)

    def vectors(self, out: Outputs, batch) -> tuple[jax.Array, jax.Array]:
        """Float32 (n, texts, width) of all examples that the rows have room for, and the weight (n,) of each."""
        found, size = pool(out.hidden, batch, self.pooling), len(self.texts)
        whole = found.shape[1] // size * size  # packing may leave a row some slots that no example fills
        found = found[:, :whole].reshape(-1, size, found.shape[-1])
        found = unit(found) if self.normalize else found
        return found, batch["weights"][:, :whole:size].reshape(-1)

    def cut(self, vectors: jax.Array) -> list[jax.Array]:
        """The whole vectors and the beginnings that `matryoshka` names."""
        return [vectors, *(vectors[..., :width] for width in self.matryoshka)]


def pool(hidden: jax.Array, batch, pooling: str) -> jax.Array:
    """The vector of each slot's text, float32 (rows, slots, width): the mean of its tokens, or the one at `at`.

    `hidden` is (rows, length, width), or (rows, slots, width) if only what is read was computed.
    """
    if pooling != "mean":
        return (hidden if hidden.shape[1] == batch["at"].shape[1] else gather_at(hidden, batch["at"])).astype(
            jnp.float32
        )
    return masked_mean(hidden, batch["segments"], batch["at"])


def digests(example: Example) -> np.ndarray:
    """int32 (texts, 2): 64 bits of each text's tokens, the same for equal ones only."""
    ends = np.cumsum(np.bincount(example["parts"]))
    texts = np.split(example["tokens"], ends[:-1])
    return np.array([np.frombuffer(blake2b(text.tobytes(), digest_size=8).digest(), np.int32) for text in texts])


def search_metrics(texts: np.ndarray, partners: np.ndarray, marks=None) -> dict[str, float]:
    """recall@1, recall@10, ndcg@10 and mrr of finding each text's partner among all by the cosine.

    Both are (n, width), partners having the same number. `marks`, of the texts and of the partners, are the same for
    equal texts only; None: the vectors are. Not among those that are searched are texts equal to the text or to its
    partner, and the partners that an equal text has in other rows.
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
