"""Answers that are spans of a text: the best ones, SQuAD's scores for them, and when not to answer at all."""

import re
import string
from collections import Counter
from typing import NamedTuple

import numpy as np

from jaxft.metrics.declared import higher, neither

PUNCTUATION = str.maketrans("", "", string.punctuation)


class Candidate(NamedTuple):
    """A span of a context: characters `start` up to `end`, which is not part of it."""

    score: float  # logit of its first token and of its last, added
    start: int
    end: int


class Choice(NamedTuple):
    """What the windows of one context say."""

    candidates: list[Candidate]  # best first
    no_answer: float  # the score of no answer minus that of the best candidate; infinite where there is none

    def text(self, context: str, threshold: float) -> str:
        """The best candidate, or nothing where no answer is better by more than `threshold`."""
        if not self.candidates or self.no_answer > threshold:
            return ""
        return context[self.candidates[0].start : self.candidates[0].end]


def choose(windows: list[tuple[np.ndarray, np.ndarray]], context: str, count: int, longest: int) -> Choice:
    """The `count` best spans of at most `longest` tokens that lie in one window, each once, by its best window.

    A window is its logits, float (t, 2) of start and end, and the characters of its tokens, int (t, 2); those of the
    token that stands for no answer are negative. White space at the ends of a span is left out. The score of no answer
    is the least of all windows (Devlin et al. 2018, section 4.3, and its published code).
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
    """(score, first, last) of the `count` best spans of at most `longest` tokens, best first: all are looked at."""
    t = len(logits_t2)
    if t == 0:
        return []
    width = min(longest, t)
    ends = np.append(logits_t2[:, 1], np.full(width - 1, -np.inf))
    scores = (logits_t2[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, width)).ravel()  # first * width + more
    places = np.argpartition(scores, -count)[-count:] if count < len(scores) else np.arange(len(scores))
    places = places[np.lexsort((places, -scores[places]))]
    places = places[scores[places] > -np.inf]  # neither beyond the end, nor not a number
    return [(float(scores[i]), i // width, i // width + i % width) for i in places.tolist()]


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The same characters without white space at their ends."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def normalised(text: str) -> str:
    """Small letters, no ASCII punctuation, no English articles, single spaces (Rajpurkar et al. 2016, section 6.1)."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split())


def exact_match(text: str, golds: list[str]) -> float:
    """1 where the text equals one of the true answers, all of them normalised, else 0."""
    return float(normalised(text) in map(normalised, _meant(golds)))


def f1(text: str, golds: list[str]) -> float:
    """The largest F1 of the text's words with those of a true answer, from 0 to 1."""
    words = normalised(text).split()
    return max(_overlap(words, normalised(gold).split()) for gold in _meant(golds))


def _meant(golds: list[str]) -> list[str]:
    """True answers of which something is left; without any, the true answer is the empty text."""
    return [gold for gold in golds if normalised(gold)] or [""]


def _overlap(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / (len(words) + len(gold))


def best_threshold(answered: np.ndarray, silent: np.ndarray, no_answer: np.ndarray) -> tuple[float, float]:
    """(mean, threshold): the best mean score of answering exactly where `no_answer` is at most the threshold.

    All (n,): the score with the answer, the score of the empty text, and how much better no answer is.
    Of equally good thresholds the lowest. SQuAD 2.0's script differs only where several `no_answer` are the same, which
    it counts as if they could be told apart.
    """
    order = np.argsort(no_answer, kind="stable")
    sizes = no_answer[order]
    totals = silent.sum() + np.append(0.0, np.cumsum((answered - silent)[order]))
    possible = np.append(True, np.append(sizes[1:] > sizes[:-1], True))  # a threshold takes equals together
    best = int(np.where(possible, totals, -np.inf).argmax())
    threshold = sizes[best - 1] if best else np.nextafter(sizes[0], -np.inf)
    return float(totals[best] / len(order)), float(threshold)


class Scores(NamedTuple):
    """What each question's best text is worth, and what silence is, from 0 to 1."""

    exact: np.ndarray  # float64 (n, 2): of the text, of silence
    f1: np.ndarray  # float64 (n, 2)
    has: np.ndarray  # bool (n,): the question has an answer
    no_answer: np.ndarray  # float64 (n,): how much better no answer is

    def take(self, questions: np.ndarray) -> "Scores":
        return Scores(*(values[questions] for values in self))


def squad_scores(texts: list[str], golds: list[list[str]], no_answer: np.ndarray) -> Scores:
    """Of the best text of each question, and its true answers."""
    pairs = [
        np.array([(score(text, gold), score("", gold)) for text, gold in zip(texts, golds, strict=True)]).reshape(-1, 2)
        for score in (exact_match, f1)
    ]
    return Scores(*pairs, np.array([any(gold) for gold in golds], bool), no_answer)


SILENT = "questions without an answer"
SQUAD = (
    higher("exact_match", "f1")
    | higher("HasAns_exact", "HasAns_f1", needs=f"{SILENT} and questions with one")
    | neither("HasAns_total", needs=f"{SILENT} and questions with one")
    | higher("NoAns_exact", "NoAns_f1", "best_exact", "best_f1", needs=SILENT)
    | neither("NoAns_total", "best_exact_thresh", "best_f1_thresh", needs=SILENT)
)


def squad_metrics(scores: Scores, threshold: float) -> dict[str, float]:
    """exact_match and f1, from 0 to 1, of the best texts where `no_answer` is at most the threshold, else of silence.

    With questions that have no answer also what SQuAD 2.0's script gives, by its names: HasAns_ and NoAns_ exact, f1
    and total, best_exact and best_f1 with their thresholds.
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
        metrics[f"best_{name}"], metrics[f"best_{name}_thresh"] = best_threshold(*pair.T, scores.no_answer)
    return metrics
