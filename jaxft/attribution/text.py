"""A text, or several, as a model reads it: tokens, and the characters they stand for."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxft.attribution.settings import Settings
from jaxft.inference.answers import choices
from jaxft.inference.arguments import read_positions
from jaxft.inference.inputs import texts_read
from jaxft.inference.model import LoadedModel
from jaxft.models.checkpoint.tokenizer import unknown_id
from jaxft.models.input_ranges import id_problems
from jaxft.problems import SHOWN, raise_problems
from jaxft.tasks.question_answering import context_first
from jaxft.tasks.word_alignment import words_of_text
from jaxft.text.graphemes import extend_to_graphemes


@dataclass(frozen=True)
class Text:
    """One encoded input."""

    texts: tuple[str, ...]  # in the model's order
    row: dict[str, list[int]]  # the arguments of the model, one number per token
    tokens: list[str]
    text_ids: list[int | None]  # index into `texts` of each token; None: special tokens
    spans: list[tuple[int, int]]  # start and end of each token in its text, in characters
    unknown: list[bool]  # whether a token is the tokenizer's unknown token
    at: int | None  # the token where the explained score is read; None: at the best answer
    chosen: tuple[int, int] | None = None  # multiple choice: the explained choice, and the predicted one

    def baseline_ids(self, token: int) -> np.ndarray:
        """Token ids (tokens,) of the text with all but the special tokens replaced by `token`."""
        return np.where([text_id is None for text_id in self.text_ids], self.row["input_ids"], token)

    @property
    def batch(self) -> dict[str, np.ndarray]:
        """One row of a batch (models/batch.py) with this text alone, padded; each array (length,)."""
        names = {"tokens": "input_ids", "segments": "attention_mask", "types": "token_type_ids"}
        batch = {
            name: pad_to_power_of_2(self.row[argument]) for name, argument in names.items() if argument in self.row
        }
        return batch | {"positions": pad_to_power_of_2(range(len(self.tokens)))}


def pad_to_power_of_2(values: ArrayLike) -> np.ndarray:
    """Int32, padded with zeros to a power of 2, so that few lengths are compiled."""
    array = np.array(values, np.int32)
    length = max(16, 2 ** (len(array) - 1).bit_length())
    return np.pad(array, (0, length - len(array)))


def read_texts(model: LoadedModel, texts: list[Any], settings: Settings) -> list[Text]:
    """Encodes texts. Raises UserError with the numbers, from 1, of those that cannot be explained."""
    raise_problems([] if texts else ["there is no text to explain"])
    strings = [_strings(some) for some in texts_read(texts, model.inference)]
    if model.arch.kind == "multiple-choice":
        found = choices(model, strings, settings.batch)
        read = [_read_choice(model, *pair, settings) for pair in zip(strings, found, strict=True)]
    else:
        read = [_read(model, text, settings) for text in strings]
    bad = [f"text {number}: {problem}" for number, problem in enumerate(read, 1) if isinstance(problem, str)]
    raise_problems(bad[:SHOWN])
    return [text for text in read if isinstance(text, Text)]


def _strings(texts: tuple[str | list[str], ...]) -> tuple[str, ...]:
    """The texts; lists of words are joined with spaces."""
    return tuple(text if isinstance(text, str) else " ".join(text) for text in texts)


def _read_choice(model: LoadedModel, texts: tuple[str, ...], answer: dict[str, Any], settings: Settings) -> Text | str:
    """The question with one choice: the predicted one, or `settings.number`."""
    predicted = answer["choice"]
    number = predicted if settings.number is None else settings.number
    if number >= len(texts) - 1:
        return f"it has {len(texts) - 1} choices, numbered from 0: there is no choice {number}"
    read = _read(model, (texts[0], texts[1 + number]), settings)
    return read if isinstance(read, str) else replace(read, chosen=(number, predicted))


def _read(model: LoadedModel, texts: tuple[str, ...], settings: Settings) -> Text | str:
    answers = model.arch.kind == "question-answering"
    if answers and len(texts) != 2:
        return "a question-answering model reads pairs (question, context)"
    if model.arch.kind == "token-classification" and len(texts) > 1:
        return "it is a pair, but tags are of single texts"
    if answers:
        texts = texts[::-1] if context_first(model.tokenizer) else texts
        row = model.tokenizer(*texts, truncation=False, verbose=False)
    else:
        row = model.encoded(*texts)
    encoding = row.encodings[0]
    if not len(encoding):
        return "it is empty: the tokenizer makes no token of it"
    if len(encoding) > model.longest:
        return (
            f"question and context have {len(encoding)} tokens, and explain reads {model.longest}: shorten the context"
        )
    at = _place(model, texts, encoding, settings.word)
    if isinstance(at, str):
        return at
    names = ("input_ids", "attention_mask", "token_type_ids")
    arguments = {name: list(row[name]) for name in names if name in row}
    arrays = {"tokens": np.array(encoding.ids), "types": np.array(arguments.get("token_type_ids", []), int)}
    if found := id_problems(arrays, model.arch.spec):
        return "; ".join(found)
    unknown = [number == unknown_id(model.tokenizer) for number in encoding.ids]
    return Text(texts, arguments, encoding.tokens, encoding.sequence_ids, _spans(texts, encoding), unknown, at)


def _spans(texts: tuple[str, ...], encoding: Any) -> list[tuple[int, int]]:
    """The characters of each token in its text, extended to whole graphemes."""
    spans = np.array(encoding.offsets, np.int32)
    text_ids = np.array([-1 if text_id is None else text_id for text_id in encoding.sequence_ids])
    for number, text in enumerate(texts):
        spans[text_ids == number] = extend_to_graphemes(text, spans[text_ids == number])
    return [(start, end) for start, end in spans.tolist()]


def _place(model: LoadedModel, texts: tuple[str, ...], encoding: Any, word: str | None) -> int | None | str:
    """The token where the score is read, None if that depends on the scores; or why there is none."""
    kind = model.arch.kind
    if kind == "question-answering":
        return None
    if kind in ("sequence-classification", "multiple-choice"):
        return int(read_positions(np.ones((1, len(encoding)), int), model.arch.spec.pool_token)[0, 0])
    if kind == "causal-lm":
        return len(encoding) - 1
    if kind == "masked-lm":
        mask = model.tokenizer.mask_token_id
        return encoding.ids.index(mask) if mask in encoding.ids else f"it has no {model.tokenizer.mask_token}"
    assert word is not None  # `settings.check`
    words = {texts[0][start:stop]: first for first, start, stop in reversed(words_of_text(texts[0], encoding))}
    return words.get(word, f"it has no word {word!r}")
