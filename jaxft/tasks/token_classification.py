"""A tag for every word: named entities, chunks, parts of speech."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config.component import config
from jaxft.config.ranges import Fraction
from jaxft.data.data_report import DataReport
from jaxft.data.example import Example, Row
from jaxft.inference.settings import Inference, TagDecoding, reads
from jaxft.metrics import Mean, tag_metrics
from jaxft.metrics.classes import TAGS
from jaxft.metrics.declared import Metric, lower
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.problems import listed, raise_problems, suggest, truncated_repr
from jaxft.reports.figures import class_figures, entity_figure
from jaxft.tasks.base import EncodingContext, Task, logits_of
from jaxft.tasks.labels import known_labels, numbering, read_all, unknown_labels
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.word_alignment import encode_words, numbers_of_words, words_and_tags
from jaxft.text.entities import (
    OUTSIDE,
    PREFIXES,
    Tagset,
    completed,
    entity_counts,
    entity_declared,
    entity_metrics,
    repaired,
    scheme_of,
    viterbi,
)

SCHEMES = (*PREFIXES, "none")
# Roles of a prediction, 0 for none: the first word of a text, another word, a further piece of a word.
BEGINS, WORD, PIECE = 1, 2, 3
BEYOND, MISSING, TAKEN, UNTAGGED = (
    "words beyond config.max_len",
    "words without a token",
    "tags I- that begin an entity, read as B-",
    "words without a tag",
)


@config
class TokenClassification(Task):
    """One tag per word of a text that is given as a list of words.

    Metrics count words, whichever pieces are trained. A word that the model does not see, because the text is cut or
    the word has no token, counts as tagged O, or as wrong if there is no tag O.

    Targets (predictions, 2) are the number of the tag and the role of the prediction.
    """

    words: str = "tokens"  # column: lists of words
    tags: str = "ner_tags"  # column: lists of tags, names or numbers; words without one (None, -1, -100) are left out
    labels: tuple[str, ...] | None = None  # tags by number; None: those of the training data
    scheme: str | None = None  # BIO (also for IOB1), IO, IOBES, BILOU; none: no entities; None: inferred from the tags
    pieces: str = "first"  # trained pieces of a word: first, last (for decoders), all (B-, then I-)
    repair: bool = True  # read I- tags that begin an entity as B-, in training and evaluation
    decode: str = "argmax"  # viterbi: the most probable sequence that the scheme allows
    max_lost: Fraction = 0.01  # the largest share of words beyond config.max_len; more is an error

    head = "token-classification"

    def problems(self) -> list[str]:
        choices = {"scheme": (None, *SCHEMES), "pieces": ("first", "last", "all"), "decode": ("argmax", "viterbi")}
        return [
            f"{name} is {truncated_repr(value)}, expected "
            f"{' or '.join(map(str, known))}.{suggest(str(value), map(str, known))}"
            for name, known in choices.items()
            if (value := getattr(self, name)) not in known
        ]

    def columns(self) -> list[str]:
        return [self.words, self.tags]

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        named = numbering(self.labels or rows.classes.get(self.tags) or setting.labels or ())
        lists = read_all(rows.named(), lambda piece: [self._lists(row, named)[1] for row in piece])
        distinct = Counter(tag for tags in lists for tag in tags if tag is not None)
        known = {*(self.labels or distinct), *rows.classes.get(self.tags, [])}
        scheme = self._scheme(known)
        if self.labels is not None:
            return replace(self, scheme=scheme)
        counts = Counter({tag: distinct[tag] or 1 for tag in completed([*distinct], scheme)})
        labels = completed(known_labels(rows, self.tags, counts, setting.labels), scheme)
        return replace(self, labels=tuple(labels), scheme=scheme)

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        numbers, tagset = numbering(self.class_names), self._tagset()
        unknown_labels(lambda row: self._lists(row, numbers)[1], numbers, "training tag")(rows)
        lists = [self._lists(row, numbers) for row in rows]
        encodings, types = encode_words(setting, [words for words, _ in lists if words])
        examples = [
            self._example(encoding, [-1 if tag is None else numbers.get(tag, -1) for tag in tags], tagset)
            for encoding, (_, tags) in zip(encodings, filter(_has_words, lists), strict=True)
        ]
        for example, kinds in zip(examples, types, strict=False):
            if not isinstance(example, str):
                example["types"] = np.array(kinds, np.int32)
        rest = iter(examples)
        return [next(rest) if words else "no words" for words, _ in lists]

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

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        decoding = TagDecoding(decode=self.decode, pieces=self.pieces, scheme=self.scheme)
        return reads(self, self.words, decoding=decoding)

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

    def _scheme(self, tags: Collection[str]) -> str:
        """The scheme that the user names, or else the one that fits the tags."""
        if self.scheme is None:
            found = scheme_of(tags)
            likely = sorted(tag for tag in tags if scheme_of([tag]) is not None and tag != OUTSIDE)
            if found is None and likely:
                others = sorted(set(tags) - set(likely) - {OUTSIDE})
                raise_problems(
                    [
                        f"the tags {listed([*likely[:3], *others[:3]])} do not follow one scheme: set "
                        "config.task.scheme "
                        f"to {', '.join(PREFIXES)}, or to none if they are not entities"
                    ]
                )
            return found or "none"
        prefixes = tuple(f"{letter}-" for letter in PREFIXES.get(self.scheme, ""))
        strange = sorted(tag for tag in tags if tag != OUTSIDE and not tag.startswith(prefixes) and prefixes)
        raise_problems(
            f"config.task.scheme is {self.scheme}, but there is the tag {truncated_repr(tag)}: expected O, or "
            f"{' or '.join(prefixes)} and a type"
            for tag in strange[:1]
        )
        return self.scheme

    def _lists(self, row: Row, known: Collection[str]) -> tuple[list[str], list[str | None]]:
        return words_and_tags(row, self.words, self.tags, known)

    def _example(self, encoding: Any, numbers: list[int], tagset: Tagset) -> Example | str:
        """The example of a text with at least one word; `numbers` are the tags of its words, -1 for none."""
        tags, changed = np.array(numbers), 0
        untagged = int(np.sum(tags < 0))
        if not np.any(tags >= 0):
            return "no tag"
        if self.repair:
            tags, changed = repaired(tags, np.arange(len(tags)) == 0, tagset)
        at, word, main = word_predictions(numbers_of_words(encoding), len(tags), self.pieces)
        tagged = tags[word] >= 0
        at, word, main = at[tagged], word[tagged], main[tagged]
        role = np.where(main, WORD, PIECE)
        role[np.flatnonzero(main)[0]] = BEGINS
        targets = np.where(main, tags[word], continued(tagset)[tags[word]])
        unseen = set(word[at < 0].tolist())
        beyond = len(unseen.intersection(w for piece in encoding.overflowing for w in piece.word_ids))
        notes = {"words": len(set(word.tolist())), BEYOND: beyond, MISSING: len(unseen) - beyond, TAKEN: changed}
        notes |= {UNTAGGED: untagged} if untagged else {}
        return {
            "tokens": np.array(encoding.ids, np.int32),
            "at": np.maximum(at, 0).astype(np.int32),
            "targets": np.stack([targets, role], 1).astype(np.int32),
            "weights": (at >= 0).astype(np.float32),
            "truncated": len(encoding.overflowing) > 0,
            "empty": len(unseen) == len(set(word.tolist())),
            "notes": notes,
        }


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


def _has_words(lists: tuple[list[str], list[str | None]]) -> bool:
    return bool(lists[0])
