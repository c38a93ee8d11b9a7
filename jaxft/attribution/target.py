"""Which score of a text is explained, and what the model says of the text."""

from typing import NamedTuple

import numpy as np

from jaxft.attribution.settings import VOCABULARY, Settings
from jaxft.attribution.text import Text
from jaxft.inference.answers import label_names
from jaxft.inference.model import LoadedModel
from jaxft.tasks.question_answering import context_first, place_of
from jaxft.text.spans import choose


class Target(NamedTuple):
    """A score: what the head says of some classes at some places, added up."""

    at: tuple[int, ...]  # tokens
    classes: tuple[int, ...]  # one for each of them
    name: str  # of what the score is for
    predicted: str  # what the model says


def target_of(model: LoadedModel, text: Text, settings: Settings) -> Target | str:
    """The target, by default what the model says; or why there is none."""

    def read(model, row, out, place):
        of_text = text.at is None or out.logits.ndim == 2
        return np.asarray(out.logits[place] if of_text else out.logits[place, text.at])

    ((_, scores),) = model.answered([text.row], 1, read)
    if text.at is None:
        return _answer(model, text, scores)
    if text.chosen is not None:
        return Target((text.at,), (0,), *(f"choice {number}" for number in text.chosen))
    if len(scores) == 1:
        return Target((text.at,), (0,), "the value", f"{scores[0]:.4g}")
    best = int(scores.argmax())
    number = best if settings.number is None else settings.number
    return Target((text.at,), (number,), *(_name(model, one, len(scores)) for one in (number, best)))


def scores_of(model: LoadedModel, rows: list[dict], target: Target, batch: int) -> np.ndarray:
    """The target's score of each row, float64 (rows,)."""

    def score(model, row, out, place):
        if out.logits.ndim == 2:  # (rows, classes)
            return float(out.logits[place, target.classes[0]])
        return sum(float(out.logits[place, at, one]) for at, one in zip(target.at, target.classes, strict=True))

    found = dict(model.answered(rows, batch, score))
    return np.array([found[number] for number in range(len(rows))])


def _name(model: LoadedModel, number: int, classes: int) -> str:
    if model.arch.kind in VOCABULARY:
        return model.tokenizer.convert_ids_to_tokens(number)
    return label_names(model.pretrained, classes)[number]


def _answer(model: LoadedModel, text: Text, logits: np.ndarray) -> Target | str:
    """Start and end of the best answer, as `predict` chooses it, in a context that is read at once."""
    context = 0 if context_first(model.tokenizer) else 1
    inside = np.array([part == context for part in text.parts])
    offsets = np.where(inside[:, None], np.array(text.spans), -1)
    longest = model.inference.decoding.max_answer_length
    choice = choose([(logits[: len(offsets)], offsets)], text.texts[context], 1, longest)
    if not choice.candidates:
        return "the context is empty: there is no answer to explain"
    _, start, end = choice.candidates[0]
    answer = text.texts[context][start:end]
    return Target(place_of(offsets, start, end), (0, 1), answer, answer)
