"""Which score of a text is explained, and the model's prediction."""

from typing import Any, NamedTuple

import numpy as np

from jaxft.attribution.settings import VOCABULARY, Settings
from jaxft.attribution.text import Text
from jaxft.inference.answers import AnsweringModel, decision_of, label_names
from jaxft.inference.model import LoadedModel
from jaxft.models.model import Outputs
from jaxft.tasks.question_answering import context_first, place_of
from jaxft.text.spans import choose


class Target(NamedTuple):
    """The explained score: the sum of the logits of `classes` at the tokens `at`."""

    at: tuple[int, ...]  # token positions
    classes: tuple[int, ...]  # one for each position
    name: str  # of the class, token, choice or answer
    predicted: str  # the model's prediction


def target_of(model: LoadedModel, text: Text, settings: Settings) -> Target | str:
    """The target, by default the model's prediction; or why there is none."""

    def read(model: AnsweringModel, row: dict[str, np.ndarray], out: Outputs, place: int) -> np.ndarray:
        assert out.logits is not None
        of_text = text.at is None or out.logits.ndim == 2
        return np.asarray(out.logits[place] if of_text else out.logits[place, text.at])

    ((_, scores),) = model.answered([text.row], 1, read)
    if text.at is None:
        return _answer(model, text, scores)
    if text.chosen is not None:
        return Target((text.at,), (0,), *(f"choice {number}" for number in text.chosen))
    if len(scores) == 1:
        return Target((text.at,), (0,), "the value", f"{scores[0]:.4g}")
    best = _predicted(model, scores)
    number = best if settings.number is None else settings.number
    return Target((text.at,), (number,), *(_name(model, one, len(scores)) for one in (number, best)))


def scores_of(model: LoadedModel, rows: list[dict[str, Any]], target: Target, batch: int) -> np.ndarray:
    """The target's score for each row, float64 (rows,)."""

    def score(model: AnsweringModel, row: dict[str, np.ndarray], out: Outputs, place: int) -> float:
        assert out.logits is not None
        if out.logits.ndim == 2:  # (rows, classes)
            return float(out.logits[place, target.classes[0]])
        return sum(float(out.logits[place, at, one]) for at, one in zip(target.at, target.classes, strict=True))

    found = dict(model.answered(rows, batch, score))
    return np.array([found[number] for number in range(len(rows))])


def _predicted(model: LoadedModel, scores: np.ndarray) -> int:
    """The number of the class or token that `predict` chooses; of several labels, the most probable one."""
    if model.arch.kind != "sequence-classification":
        return int(scores.argmax())
    return int(decision_of(model, label_names(model.pretrained, len(scores)))(scores))


def _name(model: LoadedModel, number: int, classes: int) -> str:
    if model.arch.kind in VOCABULARY:
        return model.tokenizer.convert_ids_to_tokens(number)
    return label_names(model.pretrained, classes)[number]


def _answer(model: LoadedModel, text: Text, logits: np.ndarray) -> Target | str:
    """Start and end of the best answer, as `predict` chooses it."""
    context = 0 if context_first(model.tokenizer) else 1
    inside = np.array([text_id == context for text_id in text.text_ids])
    offsets = np.where(inside[:, None], np.array(text.spans), -1)
    longest = model.inference.spans.max_answer_length
    choice = choose([(logits[: len(offsets)], offsets)], text.texts[context], 1, longest)
    if not choice.candidates:
        return "the context is empty: there is no answer to explain"
    _, start, end = choice.candidates[0]
    answer = text.texts[context][start:end]
    at = place_of(offsets, start, end)
    assert at is not None  # these are the spans of tokens
    return Target(at, (0, 1), answer, answer)
