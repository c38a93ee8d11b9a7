"""A text, or a pair of texts, as a model reads it."""

from dataclasses import dataclass, replace

import numpy as np

from jaxft.attribution.settings import Settings
from jaxft.inference.answers import choices
from jaxft.inference.inputs import texts_read
from jaxft.inference.model import LoadedModel, read_positions
from jaxft.models.checkpoint.tokenizer import unknown_id
from jaxft.models.input_ranges import range_problems
from jaxft.problems import SHOWN, raise_problems
from jaxft.tasks.question_answering import context_first
from jaxft.tasks.word_alignment import words_of_text
from jaxft.text.graphemes import widened


@dataclass(frozen=True)
class Text:
    """Its tokens, and which characters they stand for."""

    texts: tuple[str, ...]  # in the model's order
    row: dict[str, list[int]]  # the model's arguments, each as long as the text has tokens
    tokens: list[str]
    parts: list[int | None]  # the text that each token is of; None: special tokens, which the model's layout adds
    spans: list[tuple[int, int]]  # characters of that text
    unknown: list[bool]  # tokens that stand for what the tokenizer does not know
    at: int | None  # the token where the explained score is read; None: where the best answer is
    chosen: tuple[int, int] | None = None  # of a question's choices the one that is explained, and the likeliest

    def blank(self, token: int) -> np.ndarray:
        """The same token numbers (tokens,) with all but the special ones replaced."""
        return np.where([part is None for part in self.parts], self.row["input_ids"], token)

    @property
    def batch(self) -> dict[str, np.ndarray]:
        """A model's batch (models/batch.py) with this text alone and padded; all (length,)."""
        names = {"tokens": "input_ids", "segments": "attention_mask", "types": "token_type_ids"}
        batch = {ours: padded(self.row[theirs]) for ours, theirs in names.items() if theirs in self.row}
        return batch | {"positions": padded(range(len(self.tokens)))}


def padded(values) -> np.ndarray:
    """Int32, with zeros up to a power of two, so that few lengths compile."""
    values = np.array(values, np.int32)
    length = max(16, 2 ** (len(values) - 1).bit_length())
    return np.pad(values, (0, length - len(values)))


def read_texts(model: LoadedModel, texts: list, settings: Settings) -> list[Text]:
    """Raises UserError with the numbers of the texts, from 1, of which there is nothing to explain."""
    raise_problems([] if texts else ["there is no text to explain"])
    texts = [_running(some) for some in texts_read(texts, model.inference)]
    if model.arch.kind == "multiple-choice":
        found = choices(model, texts, settings.batch)
        read = [_read_choice(model, *pair, settings) for pair in zip(texts, found, strict=True)]
    else:
        read = [_read(model, text, settings) for text in texts]
    bad = [f"text {number}: {found}" for number, found in enumerate(read, 1) if isinstance(found, str)]
    raise_problems(bad[:SHOWN])
    return read


def _running(texts: tuple) -> tuple[str, ...]:
    """The texts; words that came as a list are joined with spaces between them."""
    return tuple(text if isinstance(text, str) else " ".join(text) for text in texts)


def _read_choice(model: LoadedModel, texts: tuple[str, ...], answer: dict, settings: Settings) -> Text | str:
    """The question with its likeliest choice, or the one that is asked for."""
    likeliest = answer["choice"]
    number = likeliest if settings.number is None else settings.number
    if number >= len(texts) - 1:
        return f"it has {len(texts) - 1} choices, numbered from 0: there is no choice {number}"
    read = _read(model, (texts[0], texts[1 + number]), settings)
    return read if isinstance(read, str) else replace(read, chosen=(number, likeliest))


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
        return "it is empty: the tokenizer makes no token of it, so that there is nothing to explain"
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
    if found := range_problems(arrays, model.arch.spec):
        return "; ".join(found)
    unknown = [number == unknown_id(model.tokenizer) for number in encoding.ids]
    return Text(texts, arguments, encoding.tokens, encoding.sequence_ids, _spans(texts, encoding), unknown, at)


def _spans(texts: tuple[str, ...], encoding) -> list[tuple[int, int]]:
    """The characters of each token in its text, whole graphemes."""
    spans = np.array(encoding.offsets, np.int32)
    parts = np.array([-1 if part is None else part for part in encoding.sequence_ids])
    for number, text in enumerate(texts):
        spans[parts == number] = widened(text, spans[parts == number])
    return list(map(tuple, spans.tolist()))


def _place(model: LoadedModel, texts, encoding, word: str | None) -> int | None | str:
    """The token where the score is read, None where that depends on the scores; or why there is none."""
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
    words = {texts[0][start:stop]: first for first, start, stop in reversed(words_of_text(texts[0], encoding))}
    return words.get(word, f"it has no word {word!r}")
