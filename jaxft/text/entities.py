"""Entities in sequences of tags: what a tag set means, which entities a sequence holds, how many were found.

A tag is O, outside of all entities, or a prefix that says where in an entity the word stands, and the entity's type:
B-LOC. Sequences lie one after another in flat arrays (words,) of tag numbers; `first` (words,) is true where one
begins. The number -1 stands for no tag at all, and is read as O.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxft.metrics.declared import Metric, higher

OUTSIDE = "O"
# Prefixes of each scheme, in the order: begins an entity of several words, inside, its last word, the only word.
PREFIXES = {"BIO": "BI", "IO": "I", "IOBES": "BIES", "BILOU": "BILU"}
MEANING = {"L": "E", "U": "S"}  # BILOU's letters in those of IOBES


@dataclass(frozen=True)
class Tagset:
    """Tags by number, read by `scheme`: one of PREFIXES, or None for tags that are no entities (parts of speech)."""

    tags: tuple[str, ...]
    scheme: str | None

    @cached_property
    def types(self) -> list[str]:
        """Entity types, sorted."""
        return sorted({tag[2:] for tag in self.tags if tag != OUTSIDE}) if self.scheme else []

    @cached_property
    def places(self) -> np.ndarray:
        """The letter B, I, E, S or O of each tag (tags + 1,); the last one is that of the number -1."""
        tags = (*self.tags, OUTSIDE) if self.scheme else [OUTSIDE] * (len(self.tags) + 1)
        return np.array([MEANING.get(tag[0], tag[0]) for tag in tags])

    @cached_property
    def kinds(self) -> np.ndarray:
        """The number of each tag's type (tags + 1,), -1 for O."""
        numbers = {name: number for number, name in enumerate(self.types)}
        return np.array([numbers.get(tag[2:], -1) if tag != OUTSIDE else -1 for tag in (*self.tags, OUTSIDE)])

    @cached_property
    def goes_on(self) -> np.ndarray:
        """Whether a tag goes on with the entity of the tag before it: bool (tags + 1, tags + 1), row then column."""
        inside = np.isin(self.places, ["B", "I"])[:, None] & np.isin(self.places, ["I", "E"])
        return inside & (self.kinds[:, None] == self.kinds)

    @cached_property
    def transitions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which tags may begin a sequence, follow each other (row then column), and end a sequence; bool."""
        count, places = len(self.tags), self.places[:-1]
        if self.scheme in (None, "IO"):
            return np.ones(count, bool), np.ones((count, count), bool), np.ones(count, bool)
        begins = np.isin(places, ["O", "B", "S"])
        # In schemes that mark the last word, an entity that has begun must come to it.
        ends = ~np.isin(places, ["B", "I"]) if "E" in self.letters else np.ones(count, bool)
        return begins, np.where(begins, ends[:, None], self.goes_on[:-1, :-1]), ends

    @property
    def letters(self) -> list[str]:
        return [MEANING.get(letter, letter) for letter in PREFIXES[self.scheme]]

    def number(self, place: str, kind: int) -> int | None:
        """The number of the tag with this letter and type; None if the set has no such tag."""
        found = np.flatnonzero((self.places[:-1] == place) & (self.kinds[:-1] == kind))
        return int(found[0]) if len(found) else None


def scheme_of(tags) -> str | None:
    """The scheme that a set of tags is written in; None where they name no entities.

    B and I alone may also be IOB1, where B stands only between two entities that touch (`repaired` makes BIO of it).
    """
    prefixes = {tag[0] for tag in tags if tag != OUTSIDE}
    if not all(tag == OUTSIDE or re.fullmatch("[BIESLU]-.+", tag, re.DOTALL) for tag in tags):
        return None
    return next((name for name in ("IO", "BIO", "IOBES", "BILOU") if prefixes <= set(PREFIXES[name])), None)


def completed(tags: list[str], scheme: str | None) -> list[str]:
    """The tags, and behind them those that the scheme has for the same types: an entity of a rare type may have had a
    single word in all of the training data."""
    types = dict.fromkeys(tag[2:] for tag in tags if tag != OUTSIDE)
    wanted = [f"{prefix}-{kind}" for kind in types for prefix in PREFIXES.get(scheme, "")]
    return [*tags, *(tag for tag in wanted if tag not in set(tags))]


def segments(tags: np.ndarray, first: np.ndarray, tagset: Tagset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(start, stop, type) of every entity, `stop` being one behind its last word.

    An entity begins wherever one is not gone on with, whatever its prefix: as of seqeval without `mode="strict"`.
    """
    before = np.append(-1, tags[:-1])
    begins = first | ~tagset.goes_on[before, tags] if len(tags) else np.zeros(0, bool)
    start = np.flatnonzero(begins)
    stop = np.append(start, len(tags))[1:]
    kind = tagset.kinds[tags[start]]
    named = kind >= 0
    return start[named], stop[named], kind[named]


def strict(start, stop, kind, tags: np.ndarray, tagset: Tagset):
    """Of the entities of `segments`, those that are written as the scheme asks (seqeval's `mode="strict"`)."""
    opens, closes, alone = tagset.places[tags[start]], tagset.places[tags[stop - 1]], stop - start == 1
    if tagset.scheme == "BIO":
        right = opens == "B"
    elif tagset.scheme == "IO":
        right = np.ones(len(start), bool)
    else:
        right = np.where(alone, opens == "S", (opens == "B") & (closes == "E"))
    return start[right], stop[right], kind[right]


def repaired(tags: np.ndarray, first: np.ndarray, tagset: Tagset) -> tuple[np.ndarray, int]:
    """BIO tags in which every entity begins with B, and how many were changed; IOB1 becomes BIO. Others as they are."""
    if tagset.scheme != "BIO":
        return tags, 0
    start, _, kind = segments(tags, first, tagset)
    fixed = tags.copy()
    for number in range(len(tagset.types)):
        if (begin := tagset.number("B", number)) is not None:
            fixed[start[kind == number]] = begin
    return fixed, int(np.sum(fixed != tags))


def entity_counts(truth: np.ndarray, found: np.ndarray, first: np.ndarray, tagset: Tagset, mode: str) -> np.ndarray:
    """By type how many entities are in both, in the truth, and found: int64 (3, types). `mode`: lenient or strict.

    An entity is found if its first word, its last and its type are.
    """

    def entities(tags):
        every = segments(tags, first, tagset)
        return every if mode == "lenient" else strict(*every, tags, tagset)

    (a, b), size = (entities(truth), entities(found)), len(tagset.types)
    keys = [(start * (len(truth) + 1) + stop) * size + kind for start, stop, kind in (a, b)]
    hits = np.intersect1d(*keys, assume_unique=True) % max(size, 1)
    return np.stack([np.bincount(kinds, minlength=size) for kinds in (hits, a[2], b[2])])


def entity_declared(tagset: Tagset) -> dict[str, Metric]:
    """What `entity_metrics` gives."""
    names = [name + ending for name in ("precision", "recall", "f1") for ending in ("", "_strict")]
    return higher("accuracy", *names, "f1_macro", *(f"f1_{name}" for name in tagset.types))


def entity_metrics(truth: np.ndarray, found: np.ndarray, first: np.ndarray, tagset: Tagset) -> dict[str, float]:
    """accuracy of the tags; precision, recall, f1 of entities, f1_macro over types, f1_TYPE, and the strict ones.

    0 where a divisor is 0. f1_macro is of the types that occur on either side.
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

    Viterbi 1967, with all allowed transitions alike (no CRF). Equal sums: the lower number.
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
