"""A tag for every word, or other unit, of a text: the base class, the loss, and metrics of tags and entities."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.data.data_report import DataReport
from jaxft.data.example import Example
from jaxft.inference.settings import TagDecoding
from jaxft.metrics import Mean, tag_metrics
from jaxft.metrics.classes import TAGS
from jaxft.metrics.declared import Metric, lower
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.problems import suggest, truncated_repr
from jaxft.reports.figures import class_figures, entity_figure
from jaxft.tasks.base import Task, logits_of
from jaxft.text.entities import (
    OUTSIDE,
    PREFIXES,
    Tagset,
    entity_counts,
    entity_declared,
    entity_metrics,
    scheme_of,
    viterbi,
)

SCHEMES = (*PREFIXES, "none")
# Roles of a prediction, 0 for none: the first word of a text, another word, a further piece of a word.
BEGINS, WORD, PIECE = 1, 2, 3
BEYOND, MISSING = "words beyond config.max_len", "words without a token"


class Tagging(Task):
    """Base class of tasks that tag words.

    Metrics count words, whichever pieces are trained. A word that the model does not see, because the text is cut or
    the word has no token, counts as tagged O, or as wrong if there is no tag O.

    Targets (predictions, 2) are the number of the tag and the role of the prediction.
    """

    __slots__ = ()
    head = "token-classification"
    scheme: str | None
    pieces: str
    decode: str
    max_lost: float

    def problems(self) -> list[str]:
        choices: dict[str, tuple[str | None, ...]] = {
            "scheme": (None, *SCHEMES),
            "pieces": ("first", "last", "all"),
            "decode": ("argmax", "viterbi"),
        }
        return choice_problems(self, choices)

    def decoding(self, units: str = "words") -> TagDecoding:
        """The settings with which `predict` decodes tags as evaluation does."""
        return TagDecoding(decode=self.decode, pieces=self.pieces, scheme=self.scheme, units=units)

    def check_data(self, report: DataReport) -> list[str]:
        lost, words = (report.notes.get(name, 0) for name in (BEYOND, "words"))
        if lost <= self.max_lost * words:
            return []
        return [
            f"{lost:,} of {words:,} words ({lost / words:.1%}) are beyond config.max_len, in {report.truncated:,} "
            f"texts; config.task.max_lost allows {self.max_lost:.1%}: set a larger config.max_len, or split the texts"
        ]

    def max_predictions(self, length: int) -> int | None:
        return length

    def metrics(self) -> dict[str, Metric]:
        tagset = self._tagset()
        return lower("loss") | (TAGS if tagset.scheme is None else entity_declared(tagset))

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        errors = optax.softmax_cross_entropy_with_integer_labels(logits_of(out), batch["targets"][..., 0])
        return {"loss": Mean.of(errors, batch["weights"])}

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        tags, role = batch["targets"][..., 0], batch["targets"][..., 1]
        # One tag per word suffices, unless the best sequence needs all scores.
        scores = {"found": jnp.argmax(logits_of(out), -1)} if self.decode == "argmax" else {"scores": logits_of(out)}
        counts = ((role == BEGINS) | (role == WORD)).astype(jnp.float32)
        return scores | {"tags": tags, "first": role == BEGINS, "seen": batch["weights"] > 0, "weights": counts}

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        if self._tagset().scheme is None:
            return tag_metrics(outputs["tags"], self._found(outputs), len(self.class_names))
        return entity_metrics(outputs["tags"], self._found(outputs), outputs["first"], self._tagset())

    def figures(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        found, tagset = self._found(outputs), self._tagset()
        known = found >= 0
        figures = class_figures(outputs["tags"][known], found[known], self.class_names)
        if tagset.scheme is None:
            return figures
        counts = entity_counts(outputs["tags"], found, outputs["first"], tagset, "lenient")
        return [entity_figure(tagset.types, *counts), *figures]

    def target_stats(self, targets: np.ndarray) -> dict[str, float]:
        words = targets[targets[:, 1] != PIECE, 0]
        return dict(zip(self.class_names, np.bincount(words, minlength=len(self.class_names)).tolist(), strict=True))

    def _found(self, outputs: EvalOutputs) -> np.ndarray:
        """The predicted tags (words,); a word that the model has not seen gets O, or -1 if there is no O."""
        outside = self.class_names.index(OUTSIDE) if OUTSIDE in self.class_names else -1
        if self.decode == "argmax":
            return np.where(outputs["seen"], outputs["found"], outside)
        unseen = np.where(np.arange(len(self.class_names)) == outside, 0.0, -1e9)
        best = viterbi(np.where(outputs["seen"][:, None], outputs["scores"], unseen), outputs["first"], self._tagset())
        return np.where(outputs["seen"], best, outside)

    def _tagset(self) -> Tagset:
        # The scheme is None if a model is evaluated without training data.
        scheme = self.scheme or scheme_of(self.class_names)
        return Tagset(self.class_names, None if scheme == "none" else scheme)

    def tagged_example(
        self, encoding: Any, words: np.ndarray, tags: np.ndarray, beyond: set[int], tagset: Tagset
    ) -> Example:
        """The example of a text. `words` (tokens,) is the word of each token, -1 for none; `tags` (words,) are numbers,
        -1 for none, of which there is one or more; `beyond` are words after the end of a text that was cut."""
        at, word, main = word_predictions(words, len(tags), self.pieces)
        tagged = tags[word] >= 0
        at, word, main = at[tagged], word[tagged], main[tagged]
        role = np.where(main, WORD, PIECE)
        role[np.flatnonzero(main)[0]] = BEGINS
        targets = np.where(main, tags[word], continued(tagset)[tags[word]])
        unseen = set(word[at < 0].tolist())
        lost = len(unseen & beyond)
        return {
            "tokens": np.array(encoding.ids, np.int32),
            "at": np.maximum(at, 0).astype(np.int32),
            "targets": np.stack([targets, role], 1).astype(np.int32),
            "weights": (at >= 0).astype(np.float32),
            "truncated": len(encoding.overflowing) > 0,
            "empty": len(unseen) == len(set(word.tolist())),
            "notes": {"words": len(set(word.tolist())), BEYOND: lost, MISSING: len(unseen) - lost},
        }


def choice_problems(task: Task, choices: Mapping[str, Sequence[str | None]]) -> list[str]:
    """Problems of the fields whose value is not one of their choices."""
    return [
        f"{name} is {truncated_repr(value)}, expected "
        f"{' or '.join(map(str, known))}.{suggest(str(value), map(str, known))}"
        for name, known in choices.items()
        if (value := getattr(task, name)) not in known
    ]


def word_predictions(words: np.ndarray, count: int, pieces: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position, word, whether it represents the word) of each prediction, ordered by word, then position.

    `words` (tokens,) is the word of each token, -1 for none, of `count` words. A word without a token has a prediction
    at position -1. With `pieces="all"`, the first piece represents the word.
    """
    where = np.flatnonzero(words >= 0)
    standing = np.full(count, -1)
    # If a word has several positions, the last assignment wins.
    order = where if pieces == "last" else where[::-1]
    standing[words[order]] = order
    if pieces != "all":
        return standing, np.arange(count), np.ones(count, bool)
    missing = np.flatnonzero(standing < 0)
    at, word = np.append(where, np.full(len(missing), -1)), np.append(words[where], missing)
    order = np.lexsort((at, word))
    return at[order], word[order], at[order] == standing[word[order]]


def continued(tagset: Tagset) -> np.ndarray:
    """For each tag, and for none at the end, the tag of further pieces of the word: I- for B-, else the same."""
    inside = [
        tagset.number("I", kind) if place == "B" else None
        for place, kind in zip(tagset.places, tagset.kinds, strict=True)
    ]
    same = np.append(np.arange(len(tagset.tags)), -1)
    return np.array([own if number is None else number for own, number in zip(same.tolist(), inside, strict=True)])
