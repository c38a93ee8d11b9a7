"""From the outputs of each head to answers, for `model.predict` and the predict command."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from scipy.special import expit, logsumexp, softmax

from jaxft.data.example import Example
from jaxft.inference.settings import Inference, VectorDecoding
from jaxft.metrics.classes import above
from jaxft.metrics.decisions import Decision
from jaxft.models.checkpoint.pretrained import Architecture, Pretrained
from jaxft.models.checkpoint.sentence_embedding import SentenceEmbedding
from jaxft.models.model import Outputs
from jaxft.problems import SHOWN, listed, raise_problems, truncated_repr
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.question_answering import windows
from jaxft.tasks.tagging import word_predictions
from jaxft.tasks.word_alignment import TAG_UNITS, encode_words, numbers_of_units, numbers_of_words
from jaxft.text.entities import OUTSIDE, Tagset, entity_spans, scheme_of, viterbi
from jaxft.text.spans import Choice, choose

Arguments = dict[str, np.ndarray]  # of the model, for one row, each (length,)
Answer = dict[str, Any]  # JSON values


class AnsweringModel(Protocol):
    """What answers need of a loaded model (inference/model.py)."""

    pretrained: Pretrained
    arch: Architecture
    inference: Inference
    embedding: SentenceEmbedding | None

    @property
    def tokenizer(self) -> Any:
        """The fast tokenizer of transformers."""

    @property
    def longest(self) -> int:
        """The most tokens of a text that the model reads."""

    def encoded(self, *texts: str) -> Any:
        """transformers' encoding of a text or a pair."""

    def answered(self, rows: Sequence[Any], batch: int, answer: "AnswerFunction") -> Iterator[tuple[int, Any]]:
        """(number, answer) of each row of arguments."""


WINDOW = 384  # tokens of a window, if the model has no setting; the usual number in training
STRIDE = 128  # tokens that neighbouring windows share, if the model has no setting


def _classes(model: "AnsweringModel", row: Arguments, out: Outputs, place: int) -> Answer:
    logits = _logits_of(out, place).astype(np.float64)
    labels = label_names(model.pretrained, len(logits))
    kind = model.pretrained.raw.get("problem_type")
    if kind == "regression" or (kind is None and len(logits) == 1):
        return {"value": float(logits[0])}
    if kind == "multi_label_classification":
        scores = expit(logits)
        chosen = np.flatnonzero(above(logits, thresholds_of(model, len(logits))))
        answer = {"labels": [labels[i] for i in chosen], "scores": [float(scores[i]) for i in chosen]}
    else:
        scores = softmax(logits)
        best = int(decision_of(model, labels)(logits))
        answer = {"label": labels[best], "score": float(scores[best])}
    everything = {"label_scores": dict(zip(labels, scores.tolist(), strict=True))}
    return answer | (everything if model.inference.labels.scores == "all" else {})


def decision_of(model: "AnsweringModel", labels: Sequence[str]) -> Decision:
    """How one of the classes `labels` is chosen. Raises UserError for a threshold that does not fit them."""
    asked = model.inference.labels
    if asked.threshold is not None and len(labels) != 2:
        raise_problems([f"there is a threshold for two classes, but the model has {len(labels)}: {listed(labels)}"])
    if asked.positive is not None and asked.positive not in labels:
        raise_problems([f"positive is {truncated_repr(asked.positive)}, but the classes are {listed(labels)}"])
    return Decision(1 if asked.positive is None else labels.index(asked.positive), asked.threshold)


def _logits_of(out: Outputs, place: int) -> np.ndarray:
    if out.logits is None:
        raise ValueError("the model has no head")
    return np.asarray(out.logits[place])


def thresholds_of(model: "AnsweringModel", count: int) -> np.ndarray:
    """The least probability of each of `count` labels. Raises UserError for another number of thresholds."""
    found = model.inference.labels.thresholds or (0.5,) * count
    raise_problems(
        [f"there are {len(found)} thresholds for {count} labels: give one per label"] if len(found) != count else []
    )
    return np.array(found)


def _masked(model: "AnsweringModel", row: Arguments, out: Outputs, place: int) -> Answer:
    at = np.flatnonzero(row["input_ids"] == model.tokenizer.mask_token_id)
    best = _logits_of(out, place)[at].argmax(-1)
    return {"tokens": model.tokenizer.convert_ids_to_tokens(best.tolist())}


def _perplexity(model: "AnsweringModel", row: Arguments, out: Outputs, place: int) -> Answer:
    length = int(row["attention_mask"].sum())
    logits = _logits_of(out, place).astype(np.float64)[: length - 1]
    norm = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    losses = norm - logits[np.arange(length - 1), row["input_ids"][1:length]]
    return {"perplexity": float(np.exp(losses.mean())) if length > 1 else None}


def _embedding(model: "AnsweringModel", row: Arguments, out: Outputs, place: int) -> Answer:
    hidden = np.asarray(out.hidden[place])[row["attention_mask"] > 0]
    if model.embedding is None:
        raise ValueError("the model has a head")
    return {"embedding": model.embedding(hidden, prompt_length(model)).tolist()}


def prompt_length(model: "AnsweringModel") -> int:
    """Tokens of the prompt, without a special token at its end (as sentence-transformers counts them); 0 if they are
    part of the pooling."""
    prompt = prompt_of(model)
    if not prompt or model.embedding is None or model.embedding.include_prompt:
        return 0
    ids = model.tokenizer(prompt)["input_ids"]
    return len(ids) - (ids[-1] in model.tokenizer.all_special_ids)


def prompt_of(model: "AnsweringModel") -> str:
    """The text before every input of an embedding model; "" for none."""
    decoding = model.inference.decoding
    name = decoding.prompt_name if isinstance(decoding, VectorDecoding) else None
    return model.embedding.prompt(name) if model.embedding else ""


AnswerFunction = Callable[["AnsweringModel", Arguments, Outputs, int], Any]  # (model, row, outputs, its row in these)

# Heads that answer each row by itself.
ANSWERS: dict[str, AnswerFunction] = {
    "sequence-classification": _classes,
    "masked-lm": _masked,
    "causal-lm": _perplexity,
    "none": _embedding,
}


def spans(model: "AnsweringModel", pairs: list[tuple[Any, ...]], batch: int) -> list[Answer]:
    """The answers to pairs (question, context); contexts are read in windows."""
    asked = model.inference.spans
    length = model.longest if model.inference.max_length else min(WINDOW, model.longest)
    setting = EncodingContext(model.tokenizer, length, model.arch.spec.pool_token)
    other = [(number, len(pair)) for number, pair in enumerate(pairs, 1) if len(pair) != 2]
    raise_problems(
        f"row {number} holds {count} texts: a question-answering model reads pairs (question, context)"
        for number, count in other[:SHOWN]
    )
    contexts = [context for _, context in pairs]
    stride = min(STRIDE, length // 3) if asked.stride is None else asked.stride
    read = windows(setting, [text for text, _ in pairs], contexts, stride, asked.max_query_length)
    flat = [(number, window) for number, some in enumerate(read) for window in some]
    by_pair: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in pairs]
    for place, logits in model.answered([_arguments(window) for _, window in flat], batch, _logits):
        number, window = flat[place]
        used = window["weights"] > 0
        by_pair[number].append((logits[used], window["offsets"][used]))
    return [
        _span(choose(some, context, asked.n_best_size, asked.max_answer_length), context, asked.null_threshold)
        for some, context in zip(by_pair, contexts, strict=True)
    ]


def tags(model: "AnsweringModel", texts: list[tuple[Any, ...]], batch: int) -> list[Answer]:
    """The entities of texts, or the tags of their words if tags are not entities; for lists of words, one tag each."""
    pairs = [number for number, text in enumerate(texts, 1) if len(text) > 1]
    raise_problems(f"text {number} is a pair, but this model reads single texts" for number in pairs[:SHOWN])
    single = [text for (text,) in texts]
    setting = EncodingContext(model.tokenizer, model.longest, model.arch.spec.pool_token)
    given = iter(encode_words(setting, [words for words in single if isinstance(words, list) and words])[0])
    encodings = [
        model.encoded(text).encodings[0] if isinstance(text, str) else next(given) if text else None for text in single
    ]
    rows = [_row(encoding, model.tokenizer.model_input_names) for encoding in encodings if encoding is not None]
    found = dict(model.answered(rows, batch, _logits))
    scores = iter(found[number] for number in range(len(rows)))
    return [
        {"tags": [], "scores": []}
        if encoding is None
        else (_tagged if isinstance(text, str) else _tagged_words)(model, text, encoding, next(scores).astype(float))
        for text, encoding in zip(single, encodings, strict=True)
    ]


def _row(encoding: Any, names: Sequence[str]) -> dict[str, list[int]]:
    """The model's arguments for an encoding."""
    row = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask}
    return row | ({"token_type_ids": encoding.type_ids} if "token_type_ids" in names else {})


def _tagged(model: "AnsweringModel", text: str, encoding: Any, logits: np.ndarray) -> Answer:
    """The answer for a text. `read` is the character at which a long text was cut. The score of a word is the
    probability of its tag, that of an entity the mean over its words."""
    words = TAG_UNITS[model.inference.tags.units](text, encoding)
    tagset = _tagset(model, logits.shape[-1])
    spans = [(start, stop) for _, start, stop in words]
    at, _, main = word_predictions(numbers_of_units(encoding, words), len(words), model.inference.tags.pieces)
    logits = logits[at[main]]
    found = _best_tags(model, logits, tagset)
    sure = _sure(logits, found)
    cut = {"read": spans[-1][1] if spans else 0} if encoding.overflowing else {}
    if tagset.scheme is None:
        tagged = [
            {"word": text[start:stop], "start": start, "end": stop, "tag": tagset.tags[tag], "score": score}
            for (start, stop), tag, score in zip(spans, found, sure, strict=True)
        ]
        return {"tags": tagged} | cut
    entities = []
    for begin, end, kind in zip(*entity_spans(found, _begins(found), tagset), strict=True):
        start, stop = spans[begin][0], spans[end - 1][1]
        entity = {"type": tagset.types[kind], "start": start, "end": stop, "text": text[start:stop]}
        entities.append(entity | {"score": float(np.mean(sure[begin:end]))})
    return {"entities": entities} | cut


def _tagged_words(model: "AnsweringModel", words: list[str], encoding: Any, logits: np.ndarray) -> Answer:
    """The tags of the words of one text, as evaluation assigns them.

    A word that the model did not see gets the tag O (None if the scheme has no O) and the score None; `read` is the
    number of words before the first such word.
    """
    tagset = _tagset(model, logits.shape[-1])
    at, _, main = word_predictions(numbers_of_words(encoding), len(words), model.inference.tags.pieces)
    at = at[main]
    seen, outside = at >= 0, tagset.tags.index(OUTSIDE) if OUTSIDE in tagset.tags else -1
    unseen = np.where(np.arange(len(tagset.tags)) == outside, 0.0, -1e9)
    logits = np.where(seen[:, None], logits[np.maximum(at, 0)], unseen)
    found = np.where(seen, _best_tags(model, logits, tagset), outside)
    sure = _sure(logits, found)
    return {
        "tags": [tagset.tags[tag] if tag >= 0 else None for tag in found],
        "scores": [score if there else None for score, there in zip(sure, seen.tolist(), strict=True)],
    } | ({} if seen.all() else {"read": int(seen.argmin())})


def _tagset(model: "AnsweringModel", count: int) -> Tagset:
    labels = tuple(label_names(model.pretrained, count))
    scheme = model.inference.tags.scheme or scheme_of(labels)
    return Tagset(labels, None if scheme == "none" else scheme)


def _best_tags(model: "AnsweringModel", logits: np.ndarray, tagset: Tagset) -> np.ndarray:
    if model.inference.tags.decode == "viterbi":
        return viterbi(logits, _begins(logits), tagset)
    return logits.argmax(-1)


def _begins(words: np.ndarray) -> np.ndarray:
    """True for the first word of a text: bool (words,)."""
    return np.arange(len(words)) == 0


def _sure(logits: np.ndarray, found: np.ndarray) -> list[float]:
    """The probability of each word's tag."""
    return np.exp(logits[np.arange(len(found)), found] - logsumexp(logits, -1)).tolist()


def choices(model: "AnsweringModel", texts: list[tuple[Any, ...]], batch: int) -> list[Answer]:
    """The most probable choice for each (question, choice, choice, ...)."""
    other = [(number, len(text)) for number, text in enumerate(texts, 1) if len(text) < 3]
    raise_problems(
        f"row {number} holds {count} texts: a multiple-choice model reads (question, choice, choice, ...)"
        for number, count in other[:SHOWN]
    )
    rows = [model.encoded(question, choice) for question, *some in texts for choice in some]
    scores = dict(model.answered(rows, batch, lambda model, row, out, place: float(_logits_of(out, place)[0])))
    ends = np.cumsum([len(text) - 1 for text in texts])[:-1]
    shares = [softmax(some) for some in np.split(np.array([scores[i] for i in range(len(rows))]), ends)]
    return [{"choice": int(some.argmax()), "score": float(some.max()), "scores": some.tolist()} for some in shares]


def _arguments(window: Example) -> Arguments:
    """The model's arguments for a window."""
    row = {"input_ids": window["tokens"], "attention_mask": np.ones_like(window["tokens"])}
    return row | ({"token_type_ids": window["types"]} if "types" in window else {})


def _logits(model: "AnsweringModel", row: Arguments, out: Outputs, place: int) -> np.ndarray:
    return _logits_of(out, place)[row["attention_mask"] > 0]


def _span(choice: Choice, context: str, threshold: float | None) -> Answer:
    if not choice.candidates:
        return {"answer": "", "score": 0.0, "start": 0, "end": 0, "no_answer": None, "candidates": []}
    scores = np.array([candidate.score for candidate in choice.candidates])
    powers = np.exp(scores - max(scores[0], scores[0] + choice.no_answer))
    no_answer = np.exp(min(choice.no_answer, 0.0))
    total = powers.sum() + no_answer
    candidates = [
        {"answer": context[start:end], "score": float(power / total), "start": start, "end": end}
        for power, (_, start, end) in zip(powers, choice.candidates, strict=True)
    ]
    best = candidates[0]
    if threshold is not None and choice.no_answer > threshold:
        best = {"answer": "", "score": float(no_answer / total), "start": 0, "end": 0}
    return {**best, "no_answer": choice.no_answer, "candidates": candidates}


# Heads that answer all texts together.
BATCH_ANSWERERS: dict[str, Callable[["AnsweringModel", list[tuple[Any, ...]], int], list[Answer]]] = {
    "question-answering": spans,
    "token-classification": tags,
    "multiple-choice": choices,
}


def label_names(pretrained: Pretrained, classes: int) -> list[str]:
    """The class names of config.json; LABEL_0, LABEL_1, ... if it has none."""
    table = pretrained.raw.get("id2label")
    return [table[key] for key in sorted(table, key=int)] if table else [f"LABEL_{i}" for i in range(classes)]
