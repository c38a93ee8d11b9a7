"""What each head's output means to a person, one row at a time: for `model.predict` and the predict command."""

from functools import partial
from pathlib import Path

import numpy as np
from scipy.special import logsumexp, softmax

from jaxft.entities import Tagset, scheme_of, segments, viterbi
from jaxft.problems import SHOWN, UserError, raise_problems, suggest
from jaxft.spans import Choice, choose
from jaxft.strict_json import parse
from jaxft.tasks.answer import Answer, windows
from jaxft.tasks.base import Setting
from jaxft.tasks.choose import choices_of
from jaxft.tasks.template import column, columns_of
from jaxft.tasks.vectors import POOLINGS
from jaxft.tasks.words import words_of_text

WINDOW = 384  # tokens that are read at once of a context, as is usual in training
# Of the texts by head; others have one, called text.
COLUMNS = {"question-answering": ("question", "context"), "multiple-choice": ("question", "choices")}


def _classes(model, row, out, place) -> dict:
    logits = np.asarray(out.logits[place], np.float64)
    labels = label_names(model.pretrained, len(logits))
    kind = model.pretrained.raw.get("problem_type")
    if kind == "regression" or (kind is None and len(logits) == 1):
        return {"value": float(logits[0])}
    if kind == "multi_label_classification":
        scores = 1 / (1 + np.exp(-logits))
        chosen = np.flatnonzero(scores > 0.5)
        return {"labels": [labels[i] for i in chosen], "scores": [float(scores[i]) for i in chosen]}
    scores = np.exp(logits - logits.max())
    best = int(scores.argmax())
    return {"label": labels[best], "score": float(scores[best] / scores.sum())}


def _masked(model, row, out, place) -> dict:
    at = np.flatnonzero(row["input_ids"] == model.tokenizer.mask_token_id)
    best = np.asarray(out.logits[place])[at].argmax(-1)
    return {"tokens": model.tokenizer.convert_ids_to_tokens(best.tolist())}


def _perplexity(model, row, out, place) -> dict:
    length = int(row["attention_mask"].sum())
    logits = np.asarray(out.logits[place], np.float64)[: length - 1]
    norm = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    losses = norm - logits[np.arange(length - 1), row["input_ids"][1:length]]
    return {"perplexity": float(np.exp(losses.mean())) if length > 1 else None}


def _embedding(model, row, out, place) -> dict:
    hidden = np.asarray(out.hidden[place])[row["attention_mask"] > 0]
    pooled = {"mean": lambda: hidden.mean(0), "first": lambda: hidden[0], "last": lambda: hidden[-1]}
    return {"embedding": pooled[pooling_of(model.pretrained.directory)]().tolist()}


def pooling_of(directory: Path) -> str:
    """How the vector of a text is made of its tokens' vectors; their mean where the directory does not say it.

    Raises UserError for a way that is not known.
    """
    file = directory / "1_Pooling" / "config.json"
    if not file.exists():
        return "mean"
    try:
        modes = parse(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    asked = [name for name, on in modes.items() if name.startswith("pooling_mode") and on]
    known = {name: pooling for pooling, name in POOLINGS.items()}
    if len(asked) != 1 or asked[0] not in known:
        raise_problems([f"{file} asks for {', '.join(asked) or 'no pooling'}: expected one of {', '.join(known)}"])
    return known[asked[0]]


ANSWERS = {
    "sequence-classification": _classes,
    "masked-lm": _masked,
    "causal-lm": _perplexity,
    "none": _embedding,
}


def spans(model, pairs: list, batch: int) -> list[dict]:
    """The answers to pairs of question and context, which is read in windows."""
    asked = Answer()
    length = min(WINDOW, model.longest)
    setting = Setting(model.tokenizer, length, model.arch.spec.reads)
    pairs = [tuple(pair) for pair in pairs]
    raise_problems(
        f"row {number} holds {len(pair)} texts: a question-answering model reads pairs (question, context)"
        for number, pair in enumerate(pairs, 1)
        if len(pair) != 2
    )
    contexts = [context for _, context in pairs]
    stride = min(asked.stride, length // 3)
    read = windows(setting, [text for text, _ in pairs], contexts, stride, asked.max_query_length)
    flat = [(number, window) for number, some in enumerate(read) for window in some]
    kept: list[list] = [[] for _ in pairs]
    for place, logits in model.answered([_arguments(window) for _, window in flat], batch, _logits):
        number, window = flat[place]
        used = window["weights"] > 0
        kept[number].append((logits[used], window["offsets"][used]))
    return [
        _span(choose(some, context, asked.n_best_size, asked.max_answer_length), context)
        for some, context in zip(kept, contexts, strict=True)
    ]


def tags(model, texts: list, batch: int, decode: str = "argmax") -> list[dict]:
    """Entities of texts or, of tags that name none, those of their words."""
    known = ("argmax", "viterbi")
    bad = [] if decode in known else [f"decode is {decode!r}, expected {' or '.join(known)}.{suggest(decode, known)}"]
    texts = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    pairs = [number for number, text in enumerate(texts, 1) if len(text) > 1]
    raise_problems(bad + [f"text {number} is a pair, but tags are of single texts" for number in pairs[:SHOWN]])
    rows = [model.tokenizer(*text, truncation=True, max_length=model.longest, padding=False) for text in texts]
    scores = dict(model.answered(rows, batch, _logits))
    return [
        _tagged(model, text, row.encodings[0], scores[number].astype(np.float64), decode)
        for number, ((text,), row) in enumerate(zip(texts, rows, strict=True))
    ]


def _tagged(model, text: str, encoding, logits: np.ndarray, decode: str) -> dict:
    """Of one text; `read` says where a too long one was cut. Scores are probabilities, an entity's their mean."""
    words = words_of_text(text, encoding)
    first = np.array([i == 0 for i in range(len(words))], bool)
    logits = logits[np.array([word[0] for word in words], int)]
    labels = tuple(label_names(model.pretrained, logits.shape[-1]))
    tagset = Tagset(labels, scheme_of(labels))
    found = viterbi(logits, first, tagset) if decode == "viterbi" else logits.argmax(-1)
    sure = np.exp(logits[np.arange(len(words)), found] - logsumexp(logits, -1)).tolist()
    spans = [(start, stop) for _, start, stop in words]
    cut = {"read": spans[-1][1] if spans else 0} if encoding.overflowing else {}
    if tagset.scheme is None:
        return {"tags": [{"word": text[start:stop], "start": start, "end": stop, "tag": labels[tag], "score": score}
                         for (start, stop), tag, score in zip(spans, found, sure, strict=True)]} | cut  # fmt: skip
    entities = []
    for begin, end, kind in zip(*segments(found, first, tagset), strict=True):
        start, stop = spans[begin][0], spans[end - 1][1]
        entity = {"type": tagset.types[kind], "start": start, "end": stop, "text": text[start:stop]}
        entities.append(entity | {"score": float(np.mean(sure[begin:end]))})
    return {"entities": entities} | cut


def choices(model, texts: list, batch: int) -> list[dict]:
    """The likeliest choice of each question; its choices stand behind it, as many as there are."""
    raise_problems(
        f"row {number} holds {len(text)} texts: a multiple-choice model reads (question, choice, choice, ...)"
        for number, text in enumerate(map(tuple, texts), 1)
        if len(text) < 3
    )
    encode = partial(model.tokenizer, truncation="longest_first", max_length=model.longest, padding=False)
    rows = [encode(question, choice) for question, *some in texts for choice in some]
    scores = dict(model.answered(rows, batch, lambda model, row, out, place: float(out.logits[place, 0])))
    ends = np.cumsum([len(text) - 1 for text in texts])[:-1]
    shares = [softmax(some) for some in np.split(np.array([scores[i] for i in range(len(rows))]), ends)]
    return [{"choice": int(some.argmax()), "score": float(some.max()), "scores": some.tolist()} for some in shares]


def _arguments(window: dict) -> dict:
    """A window as the model's arguments."""
    row = {"input_ids": window["tokens"], "attention_mask": np.ones_like(window["tokens"])}
    return row | ({"token_type_ids": window["types"]} if "types" in window else {})


def _logits(model, row, out, place) -> np.ndarray:
    return np.asarray(out.logits[place])[row["attention_mask"] > 0]


def _span(choice: Choice, context: str) -> dict:
    if not choice.candidates:
        return {"answer": "", "score": 0.0, "start": 0, "end": 0, "no_answer": None, "candidates": []}
    scores = np.array([candidate.score for candidate in choice.candidates])
    powers = np.exp(scores - max(scores[0], scores[0] + choice.no_answer))
    shares = powers / (powers.sum() + np.exp(min(choice.no_answer, 0.0)))
    candidates = [
        {"answer": context[start:end], "score": float(share), "start": start, "end": end}
        for share, (_, start, end) in zip(shares, choice.candidates, strict=True)
    ]
    return {**candidates[0], "no_answer": choice.no_answer, "candidates": candidates}


# Heads that answer all texts at once.
PLACED = {"question-answering": spans, "token-classification": tags, "multiple-choice": choices}


def label_names(pretrained, classes: int) -> list[str]:
    """Class names as config.json has them, LABEL_0, LABEL_1, ... if it has none."""
    table = pretrained.raw.get("id2label")
    return [table[key] for key in sorted(table, key=int)] if table else [f"LABEL_{i}" for i in range(classes)]


def text_columns(rows, kind: str, text: str | None, pair: str | None) -> list[str]:
    """Columns of a row's texts, or templates: those that are named, else what is usual for the head.

    Of multiple choice `pair` names one for each choice, with commas between them, or one that lists the choices.
    Raises UserError if the rows have no such columns.
    """
    usual = COLUMNS.get(kind, ("text", None))
    names = [name for name in (text or usual[0], pair or usual[1]) if name is not None]
    names = [names[0], *names[1].split(",")] if kind == "multiple-choice" else names
    raise_problems(
        f"{rows.name} has no column {name!r}.{suggest(name, rows.columns)} Columns: {', '.join(rows.columns)}. "
        "Name the right one with --text or --pair"
        for name in columns_of(*names)
        if name not in rows.columns
    )
    return names


def texts_of(kind: str, rows: list[dict], columns: list[str]) -> list[tuple[str, ...]]:
    """The texts of each row, as `predict` takes them."""
    if kind != "multiple-choice":
        return list(zip(*(column(rows, name) for name in columns), strict=True))
    question, *names = columns
    return [(text, *some) for text, some in zip(column(rows, question), choices_of(rows, tuple(names)), strict=True)]
