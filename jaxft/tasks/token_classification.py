"""A tag for every word: named entities, chunks, parts of speech."""

from collections import Counter
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config.component import config
from jaxft.config.ranges import Fraction
from jaxft.inference.settings import TagDecoding, reads
from jaxft.metrics import Mean, tag_metrics
from jaxft.metrics.classes import TAGS
from jaxft.metrics.declared import lower
from jaxft.problems import listed, raise_problems, suggest, truncated_repr
from jaxft.reports.figures import class_figures, entity_figure
from jaxft.tasks.base import Task
from jaxft.tasks.labels import known_labels, numbering, read_all, unknown_labels
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
BEGINS, WORD, PIECE = 1, 2, 3  # roles of a slot, 0 where there is none: a text's first word, another, more of a word
BEYOND, MISSING, TAKEN, UNTAGGED = (
    "words beyond config.max_len",
    "words without a token",
    "tags I- that begin an entity, read as B-",
    "words without a tag",
)


@config
class TokenClassification(Task):
    """One tag per word of a text that comes as a list of words.

    Metrics are of words, whatever is learned of their pieces. A word that the model does not see, because its text is
    cut or the tokenizer knows no token for it, counts as tagged O, or as wrong where there is no O.

    Targets (slots, 2) are the tag's number and the slot's role.
    """

    words: str = "tokens"  # column: lists of words
    tags: str = (
        "ner_tags"  # column: lists of tags, names or class numbers; a word without one (None, -1, -100) is left out
    )
    labels: tuple[str, ...] | None = None  # tags by number; None: those of the training data
    scheme: str | None = None  # BIO (also what IOB1 becomes), IO, IOBES, BILOU; none: no entities; None: by the tags
    pieces: str = "first"  # what is learned of a word in several pieces: first, last (for decoders), all (B- then I-)
    repair: bool = True  # a tag I- that begins an entity is read as B-, in training and in evaluation
    decode: str = "argmax"  # viterbi: the likeliest sequence that the scheme allows
    max_lost: Fraction = 0.01  # share of a set's words that may lie beyond config.max_len; more is an error

    head = "token-classification"

    def problems(self):
        choices = {"scheme": (None, *SCHEMES), "pieces": ("first", "last", "all"), "decode": ("argmax", "viterbi")}
        return [
            f"{name} is {truncated_repr(value)}, expected "
            f"{' or '.join(map(str, known))}.{suggest(str(value), map(str, known))}"
            for name, known in choices.items()
            if (value := getattr(self, name)) not in known
        ]

    def columns(self):
        return [self.words, self.tags]

    def prepare(self, rows, setting):
        named = numbering(self.labels or rows.classes.get(self.tags) or setting.labels or ())
        lists = read_all(rows.named(), lambda piece: [self._lists(row, named)[1] for row in piece])
        distinct = Counter(tag for tags in lists for tag in tags if tag is not None)
        known = {*(self.labels or distinct), *rows.classes.get(self.tags, [])}
        scheme = self._scheme(known)
        labels = self.labels
        if labels is None:
            counts = Counter({tag: distinct[tag] or 1 for tag in completed([*distinct], scheme)})
            labels = completed(known_labels(rows, self.tags, counts, setting.labels), scheme)
        return replace(self, labels=tuple(labels), scheme=scheme)

    def encode(self, rows, setting):
        numbers, tagset = numbering(self.labels), self._tagset()
        unknown_labels(lambda row: self._lists(row, numbers)[1], numbers, "training tag")(rows)
        lists = [self._lists(row, numbers) for row in rows]
        encodings, types = encode_words(setting, [words for words, _ in lists if words])
        examples = [
            self._example(encoding, [numbers.get(tag, -1) for tag in tags], tagset)
            for encoding, (_, tags) in zip(encodings, filter(_has_words, lists), strict=True)
        ]
        for example, kinds in zip(examples, types, strict=False):
            if not isinstance(example, str):
                example["types"] = np.array(kinds, np.int32)
        rest = iter(examples)
        return [next(rest) if words else "no words" for words, _ in lists]

    def check_data(self, report):
        lost, words = (report["notes"].get(name, 0) for name in (BEYOND, "words"))
        if lost <= self.max_lost * words:
            return []
        return [
            f"{lost:,} of {words:,} words ({lost / words:.1%}) lie beyond config.max_len, in {report['truncated']:,} "
            f"texts; config.task.max_lost allows {self.max_lost:.1%}: set a larger config.max_len, or split the texts"
        ]

    def slots(self, length):
        return length

    def metrics(self):
        tagset = self._tagset()
        return lower("loss") | (TAGS if tagset.scheme is None else entity_declared(tagset))

    def loss(self, out, batch):
        errors = optax.softmax_cross_entropy_with_integer_labels(out.logits, batch["targets"][..., 0])
        return {"loss": Mean.of(errors, batch["weights"])}

    def eval_outputs(self, out, batch):
        tags, role = batch["targets"][..., 0], batch["targets"][..., 1]
        # A number a word, unless the best sequence needs all scores.
        scores = {"found": jnp.argmax(out.logits, -1)} if self.decode == "argmax" else {"scores": out.logits}
        counts = ((role == BEGINS) | (role == WORD)).astype(jnp.float32)
        return scores | {"tags": tags, "first": role == BEGINS, "seen": batch["weights"] > 0, "weights": counts}

    def compute_metrics(self, sums, kept):
        if self._tagset().scheme is None:
            return tag_metrics(kept["tags"], self._found(kept), len(self.labels))
        return entity_metrics(kept["tags"], self._found(kept), kept["first"], self._tagset())

    def figures(self, kept):
        found, tagset = self._found(kept), self._tagset()
        known = found >= 0
        figures = class_figures(kept["tags"][known], found[known], self.labels)
        if tagset.scheme is None:
            return figures
        counts = entity_counts(kept["tags"], found, kept["first"], tagset, "lenient")
        return [entity_figure(tagset.types, *counts), *figures]

    def target_stats(self, targets):
        words = targets[targets[:, 1] != PIECE, 0]
        return dict(zip(self.labels, np.bincount(words, minlength=len(self.labels)).tolist(), strict=True))

    def inference(self, results):
        decoding = TagDecoding(decode=self.decode, pieces=self.pieces, scheme=self.scheme)
        return reads(self, self.words, decoding=decoding)

    def _found(self, kept) -> np.ndarray:
        """The tags (words,) that the model gives; -1 for a word that it has not seen where there is no O."""
        outside = self.labels.index(OUTSIDE) if OUTSIDE in self.labels else -1
        if self.decode == "argmax":
            return np.where(kept["seen"], kept["found"], outside)
        unseen = np.where(np.arange(len(self.labels)) == outside, 0.0, -1e9)
        best = viterbi(np.where(kept["seen"][:, None], kept["scores"], unseen), kept["first"], self._tagset())
        return np.where(kept["seen"], best, outside)

    def _tagset(self) -> Tagset:
        scheme = self.scheme or scheme_of(self.labels)  # not settled where a model is evaluated without training data
        return Tagset(tuple(self.labels), None if scheme == "none" else scheme)

    def _scheme(self, tags) -> str:
        """The scheme that the user names, or else that of the tags."""
        if self.scheme is None:
            found = scheme_of(tags)
            likely = sorted(tag for tag in tags if scheme_of([tag]) is not None and tag != OUTSIDE)
            if found is None and likely:
                others = sorted(set(tags) - set(likely) - {OUTSIDE})
                raise_problems(
                    [
                        f"the tags {listed([*likely[:3], *others[:3]])} are not of one scheme: set config.task.scheme "
                        f"to {', '.join(PREFIXES)}, or to none where they are no entities"
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

    def _lists(self, row, known):
        return words_and_tags(row, self.words, self.tags, known)

    def _example(self, encoding, numbers: list[int], tagset: Tagset) -> dict | str:
        """The example of a text with a word or more; `numbers` are its words' tags, -1 for none."""
        tags, changed = np.array(numbers), 0
        untagged = int(np.sum(tags < 0))
        if not np.any(tags >= 0):
            return "no tag"
        if self.repair:
            tags, changed = repaired(tags, np.arange(len(tags)) == 0, tagset)
        at, word, main = word_slots(numbers_of_words(encoding), len(tags), self.pieces)
        kept = tags[word] >= 0
        at, word, main = at[kept], word[kept], main[kept]
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
            "cut": len(encoding.overflowing) > 0,
            "empty": len(unseen) == len(set(word.tolist())),
            "notes": notes,
        }


def word_slots(words: np.ndarray, count: int, pieces: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position, word, whether it stands for the word) of each slot, in the order of words, then of positions.

    `words` (tokens,) is the word of each token, -1 for none, of `count` words. A word without a token has a slot with
    the position -1. Learning all pieces, the first one stands for the word.
    """
    where = np.flatnonzero(words >= 0)
    standing = np.full(count, -1)
    # Of several positions of a word the one that is written last stays.
    order = where if pieces == "last" else where[::-1]
    standing[words[order]] = order
    if pieces != "all":
        return standing, np.arange(count), np.ones(count, bool)
    missing = np.flatnonzero(standing < 0)
    at, word = np.append(where, np.full(len(missing), -1)), np.append(words[where], missing)
    order = np.lexsort((at, word))
    return at[order], word[order], at[order] == standing[word[order]]


def continued(tagset: Tagset) -> np.ndarray:
    """The tag (tags + 1,) of a word's further pieces: I- for B-, else the same."""
    inside = [
        tagset.number("I", kind) if place == "B" else None
        for place, kind in zip(tagset.places, tagset.kinds, strict=True)
    ]
    same = np.append(np.arange(len(tagset.tags)), -1)
    return np.array([own if number is None else number for own, number in zip(same.tolist(), inside, strict=True)])


def _has_words(lists) -> bool:
    return bool(lists[0])
