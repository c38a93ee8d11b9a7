"""Entities in sequences of tags: schemes, spans, metrics and Viterbi decoding.

A tag is O, outside all entities, or a prefix, the position of the word in an entity, and the type of the entity: B-LOC.
Sequences are concatenated in flat arrays (words,) of tag numbers; `first` (words,) is true at the first word of a
sequence. The number -1 stands for no tag and is read as O.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxft.metrics.declared import Metric, higher

OUTSIDE = "O"
# Prefixes of each scheme: the first word of an entity of several words, a word inside it, its last word, a single word.
PREFIXES = {"BIO": "BI", "IO": "I", "IOBES": "BIES", "BILOU": "BILU"}
MEANING = {"L": "E", "U": "S"}  # letters of BILOU -> those of IOBES


@dataclass(frozen=True)
class Tagset:
    """Tags by number; `scheme` is one of PREFIXES, or None for tags that are not entities (parts of speech)."""

    tags: tuple[str, ...]
    scheme: str | None

    @cached_property
    def types(self) -> list[str]:
        """Entity types, sorted."""
        return sorted({tag[2:] for tag in self.tags if tag != OUTSIDE}) if self.scheme else []

    @cached_property
    def places(self) -> np.ndarray:
        """The letter B, I, E, S or O of each tag (tags + 1,); the last one is for the number -1."""
        tags = (*self.tags, OUTSIDE) if self.scheme else [OUTSIDE] * (len(self.tags) + 1)
        return np.array([MEANING.get(tag[0], tag[0]) for tag in tags])

    @cached_property
    def kinds(self) -> np.ndarray:
        """The number of each tag's type (tags + 1,), -1 for O."""
        numbers = {name: number for number, name in enumerate(self.types)}
        return np.array([numbers.get(tag[2:], -1) if tag != OUTSIDE else -1 for tag in (*self.tags, OUTSIDE)])

    @cached_property
    def continues(self) -> np.ndarray:
        """Whether the second tag continues the entity of the first: bool (tags + 1, tags + 1), first then second."""
        inside = np.isin(self.places, ["B", "I"])[:, None] & np.isin(self.places, ["I", "E"])
        return inside & (self.kinds[:, None] == self.kinds)

    @cached_property
    def transitions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which tags may begin a sequence, follow each other (first then second), and end a sequence; bool."""
        count, places = len(self.tags), self.places[:-1]
        if self.scheme in (None, "IO"):
            return np.ones(count, bool), np.ones((count, count), bool), np.ones(count, bool)
        begins = np.isin(places, ["O", "B", "S"])
        # Schemes that mark the last word do not allow an entity without it.
        ends = ~np.isin(places, ["B", "I"]) if "E" in self.letters else np.ones(count, bool)
        return begins, np.where(begins, ends[:, None], self.continues[:-1, :-1]), ends

    @property
    def letters(self) -> list[str]:
        """The prefixes of the scheme, in letters of IOBES; [] without a scheme."""
        return [MEANING.get(letter, letter) for letter in PREFIXES.get(self.scheme or "", "")]

    def number(self, place: str, kind: int) -> int | None:
        """The number of the tag with this letter and type; None if there is no such tag."""
        found = np.flatnonzero((self.places[:-1] == place) & (self.kinds[:-1] == kind))
        return int(found[0]) if len(found) else None


def scheme_of(tags: Collection[str]) -> str | None:
    """The scheme of a set of tags; None if they are not entities.

    Tags with B and I may also be IOB1, where B is used only between adjacent entities (`repaired` converts it to BIO).
    """
    prefixes = {tag[0] for tag in tags if tag != OUTSIDE}
    if not all(tag == OUTSIDE or re.fullmatch("[BIESLU]-.+", tag, re.DOTALL) for tag in tags):
        return None
    return next((name for name in ("IO", "BIO", "IOBES", "BILOU") if prefixes <= set(PREFIXES[name])), None)


def completed(tags: list[str], scheme: str | None) -> list[str]:
    """The tags, then all other tags of the scheme for the same types: entities of a rare type may all have one word in
    the training data."""
    types = dict.fromkeys(tag[2:] for tag in tags if tag != OUTSIDE)
    wanted = [f"{prefix}-{kind}" for kind in types for prefix in PREFIXES.get(scheme or "", "")]
    return [*tags, *(tag for tag in wanted if tag not in set(tags))]


def entity_spans(tags: np.ndarray, first: np.ndarray, tagset: Tagset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(start, stop, type) of every entity, each (entities,); `stop` is after its last word.

    An entity begins wherever a tag does not continue the one before, whatever its prefix, as in seqeval without
    `mode="strict"`.
    """
    before = np.append(-1, tags[:-1])
    begins = first | ~tagset.continues[before, tags] if len(tags) else np.zeros(0, bool)
    start = np.flatnonzero(begins)
    stop = np.append(start, len(tags))[1:]
    kind = tagset.kinds[tags[start]]
    named = kind >= 0
    return start[named], stop[named], kind[named]


def strict_spans(
    start: np.ndarray, stop: np.ndarray, kind: np.ndarray, tags: np.ndarray, tagset: Tagset
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entities of `entity_spans` whose prefixes follow the scheme (seqeval's `mode="strict"`)."""
    opens, closes, single = tagset.places[tags[start]], tagset.places[tags[stop - 1]], stop - start == 1
    if tagset.scheme == "BIO":
        right = opens == "B"
    elif tagset.scheme == "IO":
        right = np.ones(len(start), bool)
    else:
        right = np.where(single, opens == "S", (opens == "B") & (closes == "E"))
    return start[right], stop[right], kind[right]


def repaired(tags: np.ndarray, first: np.ndarray, tagset: Tagset) -> tuple[np.ndarray, int]:
    """BIO tags in which every entity begins with B, and the number of changes. IOB1 becomes BIO. Other schemes stay."""
    if tagset.scheme != "BIO":
        return tags, 0
    start, _, kind = entity_spans(tags, first, tagset)
    fixed = tags.copy()
    for number in range(len(tagset.types)):
        if (begin := tagset.number("B", number)) is not None:
            fixed[start[kind == number]] = begin
    return fixed, int(np.sum(fixed != tags))


def entity_counts(truth: np.ndarray, found: np.ndarray, first: np.ndarray, tagset: Tagset, mode: str) -> np.ndarray:
    """Entities by type that are in both, in the truth, and found: int64 (3, types). `mode` is "lenient" or "strict".

    An entity is correct if its first word, its last word and its type are.
    """

    def entities(tags: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        every = entity_spans(tags, first, tagset)
        return every if mode == "lenient" else strict_spans(*every, tags, tagset)

    (a, b), size = (entities(truth), entities(found)), len(tagset.types)
    true, predicted = ((start * (len(truth) + 1) + stop) * size + kind for start, stop, kind in (a, b))
    hits = np.intersect1d(true, predicted, assume_unique=True) % max(size, 1)
    return np.stack([np.bincount(kinds, minlength=size) for kinds in (hits, a[2], b[2])])


def entity_declared(tagset: Tagset) -> dict[str, Metric]:
    """Declarations of the metrics of `entity_metrics`."""
    names = [name + ending for name in ("precision", "recall", "f1") for ending in ("", "_strict")]
    return higher("accuracy", *names, "f1_macro", *(f"f1_{name}" for name in tagset.types))


def entity_metrics(truth: np.ndarray, found: np.ndarray, first: np.ndarray, tagset: Tagset) -> dict[str, float]:
    """accuracy of the tags; precision, recall, f1 of entities, also strict; f1_macro over types, and f1_TYPE.

    They are 0 where a divisor is 0. f1_macro is the mean over the types that are true or found.
    """
    metrics = {"accuracy": float(np.mean(truth == np.where(found < 0, _outside(tagset), found)))}
    for mode, ending in (("lenient", ""), ("strict", "_strict")):
        counts = entity_counts(truth, found, first, tagset, mode)
        hits, true, predicted = counts.sum(1).tolist()
        metrics["precision" + ending] = hits / predicted if predicted else 0.0
        metrics["recall" + ending] = hits / true if true else 0.0
        metrics["f1" + ending] = 2 * hits / (true + predicted) if true + predicted else 0.0
        if mode == "lenient":
            by_type = {name: _f1(*column) for name, column in zip(tagset.types, counts.T.tolist(), strict=True)}
            seen = [score for score in by_type.values() if score is not None]
            metrics["f1_macro"] = float(np.mean(seen)) if seen else 0.0
            metrics |= {f"f1_{name}": score or 0.0 for name, score in by_type.items()}
    return metrics


def _outside(tagset: Tagset) -> int:
    return tagset.tags.index(OUTSIDE) if OUTSIDE in tagset.tags else -1


def _f1(hits: int, true: int, predicted: int) -> float | None:
    return 2 * hits / (true + predicted) if true + predicted else None


def viterbi(scores: np.ndarray, first: np.ndarray, tagset: Tagset) -> np.ndarray:
    """The tags (words,) with the highest sum of scores (words, tags) among the sequences that the scheme allows.

    The algorithm of Viterbi 1967 without transition scores (no CRF). Of equal sums, the lower tag number wins.
    """
    begins, follows, ends = tagset.transitions
    barred, chosen = np.where(follows, 0.0, -np.inf), np.zeros(len(scores), np.int64)
    bounds = [*np.flatnonzero(first).tolist(), len(scores)]
    for start, stop in zip(bounds, bounds[1:], strict=False):
        total, sources = np.where(begins, scores[start].astype(np.float64), -np.inf), []
        for word in range(start + 1, stop):
            paths = total[:, None] + barred
            sources.append(paths.argmax(0))
            total = paths.max(0) + scores[word]
        chosen[stop - 1] = np.where(ends, total, -np.inf).argmax()
        for word in range(stop - 2, start - 1, -1):
            chosen[word] = sources[word - start][chosen[word + 1]]
    return chosen
