"""Answers that are spans of a text: the best spans, the metrics of SQuAD, and the threshold for no answer."""

import re
import string
from collections import Counter
from typing import NamedTuple

import numpy as np

from jaxft.metrics.declared import higher, neither

PUNCTUATION = str.maketrans("", "", string.punctuation)


class Candidate(NamedTuple):
    """A span of a context: the characters from `start` up to, but excluding, `end`."""

    score: float  # sum of the start logit of its first token and the end logit of its last
    start: int
    end: int


class Choice(NamedTuple):
    """The best answers from the windows of one context."""

    candidates: list[Candidate]  # best first
    no_answer: float  # the score of no answer minus that of the best candidate; infinite without candidates

    def text(self, context: str, threshold: float) -> str:
        """The best candidate; "" if no answer is better by more than `threshold`."""
        if not self.candidates or self.no_answer > threshold:
            return ""
        return context[self.candidates[0].start : self.candidates[0].end]


def choose(windows: list[tuple[np.ndarray, np.ndarray]], context: str, count: int, longest: int) -> Choice:
    """The `count` best spans of at most `longest` tokens; a span in several windows has its highest score.

    A window has logits, float (t, 2) of start and end, and the characters of its tokens, int (t, 2), which are negative
    for the token that stands for no answer. White space at the ends of a span is removed. The score of no answer is the
    minimum over the windows (Devlin et al. 2018, section 4.3, and its published code).
    """
    best: dict[tuple[int, int], float] = {}
    null = np.inf
    for logits, offsets in windows:
        logits, real = logits.astype(np.float64), offsets[:, 0] >= 0
        null = min(null, logits[~real].sum())
        offsets = offsets[real]
        for score, first, last in best_spans(logits[real], count, longest):
            span = trimmed(context, int(offsets[first, 0]), int(offsets[last, 1]))
            if span[0] < span[1]:
                best[span] = max(score, best.get(span, -np.inf))
    candidates = [Candidate(score, *span) for span, score in best.items()]
    candidates = sorted(candidates, key=lambda one: (-one.score, one.start, one.end))[:count]
    return Choice(candidates, float(null - candidates[0].score) if candidates else np.inf)


def best_spans(logits_t2: np.ndarray, count: int, longest: int) -> list[tuple[float, int, int]]:
    """(score, first, last) of the `count` best of all spans of at most `longest` tokens, best first."""
    t = len(logits_t2)
    if t == 0:
        return []
    width = min(longest, t)
    ends = np.append(logits_t2[:, 1], np.full(width - 1, -np.inf))
    scores = (logits_t2[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, width)).ravel()  # first * width + more
    places = np.argpartition(scores, -count)[-count:] if count < len(scores) else np.arange(len(scores))
    places = places[np.lexsort((places, -scores[places]))]
    places = places[scores[places] > -np.inf]  # without spans beyond the end, and without NaN
    return [(float(scores[i]), i // width, i // width + i % width) for i in places.tolist()]


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def normalised(text: str) -> str:
    """Lower case without ASCII punctuation and English articles, single spaces (Rajpurkar et al. 2016, section 6.1)."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split())


def exact_match(text: str, golds: list[str]) -> float:
    """1 if the normalised text equals a normalised true answer, else 0."""
    return float(normalised(text) in map(normalised, _meant(golds)))


def f1(text: str, golds: list[str]) -> float:
    """The highest F1, from 0 to 1, between the words of the text and those of a true answer."""
    words = normalised(text).split()
    return max(_overlap(words, normalised(gold).split()) for gold in _meant(golds))


def _meant(golds: list[str]) -> list[str]:
    """The true answers that are not empty after normalisation; without any, the empty text."""
    return [gold for gold in golds if normalised(gold)] or [""]


def _overlap(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / (len(words) + len(gold))


def best_threshold(answered: np.ndarray, silent: np.ndarray, no_answer: np.ndarray) -> tuple[float, float]:
    """(mean, threshold): the best mean score if questions with `no_answer` up to the threshold are answered.

    All are (n,): the score of the answer, the score of the empty text, and by how much no answer is better. Of equally
    good thresholds, the lowest. SQuAD 2.0's script differs only for equal values of `no_answer`, which it treats as
    different ones.
    """
    order = np.argsort(no_answer, kind="stable")
    sizes = no_answer[order]
    totals = silent.sum() + np.append(0.0, np.cumsum((answered - silent)[order]))
    possible = np.append(True, np.append(sizes[1:] > sizes[:-1], True))  # equal values are on one side of a threshold
    best = int(np.where(possible, totals, -np.inf).argmax())
    threshold = sizes[best - 1] if best else np.nextafter(sizes[0], -np.inf)
    return float(totals[best] / len(order)), float(threshold)


class SquadScores(NamedTuple):
    """The scores, from 0 to 1, of each question's best text and of the empty text."""

    exact: np.ndarray  # float64 (n, 2): of the text, of the empty text
    f1: np.ndarray  # float64 (n, 2)
    has: np.ndarray  # bool (n,): the question has an answer
    no_answer: np.ndarray  # float64 (n,): by how much no answer is better

    def take(self, questions: np.ndarray) -> "SquadScores":
        """The scores of the questions with these numbers."""
        return SquadScores(*(values[questions] for values in self))


def squad_scores(texts: list[str], golds: list[list[str]], no_answer: np.ndarray) -> SquadScores:
    """The scores of the best text of each question, by its true answers."""
    exact, overlap = (
        np.array([(score(text, gold), score("", gold)) for text, gold in zip(texts, golds, strict=True)]).reshape(-1, 2)
        for score in (exact_match, f1)
    )
    return SquadScores(exact, overlap, np.array([any(gold) for gold in golds], bool), no_answer)


SILENT = "questions without an answer"
SQUAD = (
    higher("exact_match", "f1")
    | higher("HasAns_exact", "HasAns_f1", needs=f"{SILENT} and questions with one")
    | neither("HasAns_total", needs=f"{SILENT} and questions with one")
    | higher("NoAns_exact", "NoAns_f1", "best_exact", "best_f1", needs=SILENT)
    | neither("NoAns_total", "best_exact_thresh", "best_f1_thresh", needs=SILENT)
)


def squad_metrics(scores: SquadScores, threshold: float) -> dict[str, float]:
    """exact_match and f1, from 0 to 1, of the best text up to the threshold of `no_answer`, else of the empty text.

    If there are questions without an answer, also the metrics of SQuAD 2.0's script, with its names: HasAns_ and NoAns_
    exact, f1 and total, best_exact and best_f1 with their thresholds.
    """
    pairs, has = {"exact": scores.exact, "f1": scores.f1}, scores.has
    given = {name: np.where(scores.no_answer <= threshold, *pair.T) for name, pair in pairs.items()}
    metrics = {"exact_match": float(given["exact"].mean()), "f1": float(given["f1"].mean())}
    if has.all():
        return metrics
    for side, chosen in (("HasAns", has), ("NoAns", ~has)):
        if chosen.any():
            metrics |= {f"{side}_{name}": float(values[chosen].mean()) for name, values in given.items()}
            metrics[f"{side}_total"] = int(chosen.sum())
    for name, pair in pairs.items():
        best, at = best_threshold(pair[:, 0], pair[:, 1], scores.no_answer)
        metrics[f"best_{name}"], metrics[f"best_{name}_thresh"] = best, at
    return metrics
