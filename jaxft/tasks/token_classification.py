"""A tag for every word: named entities, chunks, parts of speech."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import Fraction
from jaxft.data.example import Example, Row
from jaxft.inference.settings import Inference, reads
from jaxft.problems import listed, raise_problems, truncated_repr
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.labels import known_labels, numbering, read_all, unknown_labels
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.tagging import Tagging
from jaxft.tasks.word_alignment import encode_words, numbers_of_words, words_and_tags
from jaxft.text.entities import OUTSIDE, PREFIXES, Tagset, completed, repaired, scheme_of

TAKEN, UNTAGGED = "tags I- that begin an entity, read as B-", "words without a tag"


@config
class TokenClassification(Tagging):
    """One tag per word of a text that is given as a list of words."""

    words: str = "tokens"  # column: lists of words
    tags: str = "ner_tags"  # column: lists of tags, names or numbers; words without one (None, -1, -100) are left out
    labels: tuple[str, ...] | None = None  # tags by number; None: those of the training data
    scheme: str | None = None  # BIO (also for IOB1), IO, IOBES, BILOU; none: no entities; None: inferred from the tags
    pieces: str = "first"  # trained pieces of a word: first, last (for decoders), all (B-, then I-)
    repair: bool = True  # read I- tags that begin an entity as B-, in training and evaluation
    decode: str = "argmax"  # viterbi: the most probable sequence that the scheme allows
    max_lost: Fraction = 0.01  # the largest share of words beyond config.max_len; more is an error

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

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        return reads(self, self.words, decoding=self.decoding())

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
        words = numbers_of_words(encoding)
        beyond = {word for piece in encoding.overflowing for word in piece.word_ids if word is not None}
        made = self.tagged_example(encoding, words, tags, beyond, tagset)
        made["notes"] |= {TAKEN: changed} | ({UNTAGGED: untagged} if untagged else {})
        return made


def _has_words(lists: tuple[list[str], list[str | None]]) -> bool:
    return bool(lists[0])
