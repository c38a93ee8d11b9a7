"""What each head's output means to a person, one row at a time: for `model.predict` and the predict command."""

import json
import os

import numpy as np

from jaxft.problems import UserError, located, raise_problems
from jaxft.tasks.base import column

CHUNK = 1024  # rows held at a time


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
    return {"embedding": hidden.mean(0).tolist()}


ANSWERS = {
    "sequence-classification": _classes,
    "masked-lm": _masked,
    "causal-lm": _perplexity,
    "none": _embedding,
}


def label_names(pretrained, classes: int) -> list[str]:
    """Class names as config.json has them, LABEL_0, LABEL_1, ... if it has none."""
    table = pretrained.raw.get("id2label")
    return [table[key] for key in sorted(table, key=int)] if table else [f"LABEL_{i}" for i in range(classes)]


def write_answers(model, rows, columns: list[str], batch: int, output: str) -> None:
    """One JSON line a row, its fields and the answer to its texts; `output` is there when all of it is.

    Raises UserError with the numbers of rows that have no text.
    """
    raise_problems(model.unanswerable)

    def predict(some):
        return model.predict(list(zip(*(column(some, name) for name in columns), strict=True)), batch)

    with open(output + ".partial", "w") as file:
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            try:
                answers = predict(some)
            except UserError as error:
                raise located(error, some, start + 1, rows.name, predict) from None
            for row, answer in zip(some, answers, strict=True):
                # The input's fields are kept: an answer of the same name is called predicted_NAME.
                answer = {f"predicted_{name}" if name in row else name: value for name, value in answer.items()}
                file.write(json.dumps({**row, **answer}, ensure_ascii=False, default=str) + "\n")
    os.replace(output + ".partial", output)
