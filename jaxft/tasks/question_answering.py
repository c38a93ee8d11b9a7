"""Extractive question answering: the answer is a span of the context, or there is none (SQuAD 1.1 and 2.0)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import Count, Finite, Fraction, NonNegativeInt
from jaxft.data.data_report import DataReport, fault_problems
from jaxft.data.encoded import Encoded
from jaxft.data.example import Example, Row
from jaxft.inference.settings import Inference, SpanDecoding, reads
from jaxft.metrics import Mean
from jaxft.metrics.declared import Metric, lower
from jaxft.metrics.units import EvalOutputs, EvalUnits
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.problems import UserError, raise_problems, truncated_repr
from jaxft.reports.figures import answer_figures
from jaxft.tasks.base import EncodingContext, Task, logits_of
from jaxft.tasks.segment_log_softmax import segment_log_softmax
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import column, columns_of, ids_of
from jaxft.text.graphemes import extend_to_graphemes
from jaxft.text.spans import SQUAD, choose, squad_metrics, squad_scores, trimmed

MISPLACED = "an answer that is not where answer_start says"
LOST = "an answer that no window holds"
Window = tuple[np.ndarray, np.ndarray]  # logits (n, 2) of the tokens at which an answer may start or end; their offsets


@config
class QuestionAnswering(Task):
    """Predicts the start and the end of the answer among the tokens of a question and its context.

    Long contexts are read in windows that overlap by `stride` tokens; a window without the answer is trained as having
    no answer. Questions are cut to `max_query_length` tokens. If the tokenizer pads on the left and its classification
    token is the last one (XLNet), the context comes first.

    Answers are {"text": [...], "answer_start": [...]}, of which the first is trained on; empty lists mean no answer. A
    row whose answer is not at `answer_start` is not trained on, but it is evaluated by its texts.
    """

    question: str = "question"  # column
    context: str = "context"  # column: the text that holds the answer
    answers: str = "answers"  # column: {"text": [...], "answer_start": [...]}
    id: str = "id"  # column: ids of the questions in files of answers; without it, row numbers from 0
    stride: NonNegativeInt = 128  # tokens that neighbouring windows share
    max_query_length: Count = 64  # tokens
    n_best_size: Count = 20  # best spans of each question
    max_answer_length: Count = 30  # tokens
    # The score by which no answer must be better than the best span; None: 0, or infinite if all questions of a set
    # have an answer.
    null_threshold: Finite | None = None
    fault_limit: Fraction = 0.01  # the largest share of rows with a misplaced answer, or with one that no window holds

    head = "question-answering"
    evaluates_texts = True

    def columns(self) -> list[str]:
        return columns_of(self.question, self.context, self.answers)

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        question_length(setting, self.stride, self.max_query_length)
        return self

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        golds = [answers_of(row[self.answers], self.answers) for row in rows]
        questions, contexts = column(rows, self.question), column(rows, self.context)
        read = windows(setting, questions, contexts, self.stride, self.max_query_length)
        return [_targeted(*one) for one in zip(read, contexts, golds, strict=True)]

    def check_data(self, report: DataReport) -> list[str]:
        return fault_problems(report, self.fault_limit)

    def metrics(self) -> dict[str, Metric]:
        return lower("loss") | SQUAD

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        """The mean of the two cross entropies over the tokens of a window; `count` is the number of windows."""
        marks = batch["targets"]
        errors = -jnp.sum(marks * segment_log_softmax(logits_of(out), batch["segments"])) / 2
        return {"loss": Mean(errors, jnp.sum(marks[..., 0], dtype=jnp.float32))}

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Logits of all tokens at which an answer may start or end: memory grows with the tokens of the evaluation "
        "set."""
        return {"logits": logits_of(out)}

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        return {}

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        """The threshold is that of the evaluation: 0 if a set had questions without an answer."""
        unanswered = any("NoAns_total" in numbers for numbers in results.values())
        decoding = SpanDecoding(
            stride=self.stride,
            max_query_length=self.max_query_length,
            n_best_size=self.n_best_size,
            max_answer_length=self.max_answer_length,
            null_threshold=0.0 if self.null_threshold is None and unanswered else self.null_threshold,
        )
        return reads(self, self.question, self.context, decoding=decoding)

    def evaluate_predictions(self, outputs: EvalOutputs, encoded: Encoded, rows: SourceRows) -> EvalUnits:
        choices: dict[int, list[Window]] = {}
        cuts = np.flatnonzero(np.diff(outputs["index"], prepend=-1, append=-1))
        for start, stop in pairwise(cuts.tolist()):
            number = int(outputs["index"][start])
            window = encoded[number]
            offsets = window["offsets"][window["weights"] > 0]
            choices.setdefault(int(encoded.source[number]), []).append((outputs["logits"][start:stop], offsets))
        return self._units([(number, row, choices.get(number, [])) for number, row in enumerate(rows)])

    def _units(self, questions: list[tuple[int, Row, list[Window]]]) -> EvalUnits:
        """Units from (row number, row, windows); the files are those that SQuAD's script takes."""
        golds, choices, contexts = [], [], []
        asked = [one for one in questions if one[1][self.answers] is not None]
        for _, row, found in asked:
            golds.append([text for text, _ in answers_of(row[self.answers], self.answers) or []])
            contexts.append("" if row[self.context] is None else str(row[self.context]))
            choices.append(choose(found, contexts[-1], self.n_best_size, self.max_answer_length))
        threshold = self.null_threshold
        if threshold is None:
            threshold = np.inf if all(map(any, golds)) else 0.0
        best = [choice.text(context, np.inf) for choice, context in zip(choices, contexts, strict=True)]
        no_answer = np.array([choice.no_answer for choice in choices])
        names = ids_of([row for _, row, _ in asked], self.id)
        given = [text if score <= threshold else "" for text, score in zip(best, no_answer, strict=True)]
        files: dict[str, object] = {".json": dict(zip(names, given, strict=True))}
        if threshold < np.inf:
            files[".null_odds.json"] = dict(zip(names, np.nan_to_num(no_answer).tolist(), strict=True))
        scores = squad_scores(best, golds, no_answer)

        def measure(drawn: np.ndarray) -> dict[str, float]:
            return squad_metrics(scores.take(drawn), threshold)

        texts = ["" if row[self.question] is None else str(row[self.question]) for _, row, _ in asked]
        figures = answer_figures(texts, golds, given, np.where(no_answer <= threshold, *scores.f1.T))
        return EvalUnits(np.array([number for number, _, _ in asked], np.int64), measure, files, tuple(figures))


def windows(
    setting: EncodingContext, questions: list[str], contexts: list[str], stride: int, most: int
) -> list[list[Example]]:
    """For each question and its context the windows that cover the context; none if there is no token.

    A window is an example without targets. `weights` is 1 for tokens at which an answer may start or end, and for the
    token that stands for no answer: the classification token or, without one, the first token. `offsets` int32 (n, 2)
    are the characters of the context that a token covers, extended to full graphemes; -1 for all other tokens.
    Questions are cut to `most` tokens.
    """
    if not questions:
        return []  # the tokenizer fails for an empty list
    questions, cut = shortened(setting.tokenizer, questions, question_length(setting, stride, most))
    swapped = context_first(setting.tokenizer)
    out = setting.tokenizer(
        *((contexts, questions) if swapped else (questions, contexts)),
        truncation="only_first" if swapped else "only_second",
        max_length=setting.max_len,
        stride=stride,
        return_overflowing_tokens=True,
    )
    found: list[list[Example]] = [[] for _ in questions]
    for number, row in enumerate(out["overflow_to_sample_mapping"]):
        encoding = out.encodings[number]
        if len(encoding):
            window = _window(encoding, contexts[row], setting.tokenizer.cls_token_id, 0 if swapped else 1)
            if "token_type_ids" in out:
                window["types"] = np.array(encoding.type_ids, np.int32)
            window["truncated"] = cut[row] and not found[row]
            found[row].append(window)
    return found


def _window(encoding: Any, text: str, cls: int | None, context: int) -> Example:
    """`text` is the context, and `context` its number in the pair."""
    tokens = np.array(encoding.ids, np.int32)
    sides = np.array([-1 if side is None else side for side in encoding.sequence_ids])
    inside = sides == context
    classification = np.flatnonzero((tokens == cls) & (sides == -1)) if cls is not None else np.array([])
    null = int(classification[0]) if len(classification) else 0
    inside[null] = False
    spans = np.array(encoding.offsets, np.int32)
    spans[inside] = extend_to_graphemes(text, spans[inside])
    offsets = np.where(inside[:, None], spans, -1)
    weights = inside.astype(np.float32)
    weights[null] = 1.0
    return {"tokens": tokens, "offsets": offsets, "weights": weights}


def _targeted(windows: list[Example], context: str, golds: list[tuple[str, int]] | None) -> list[Example] | str:
    """The windows with `targets` int8 (n, 2), 1 at the start and at the end; or why the row is left out."""
    if golds is None:
        return "no answers, not even an empty list"
    if not windows:
        return "no text"
    text, start = golds[0] if golds else ("", 0)
    misplaced = context[start : start + len(text)] != text or start < 0
    span = _covered(windows, *trimmed(context, start, start + len(text)))
    held = False
    for window in windows:
        window["targets"] = np.zeros((len(window["tokens"]), 2), np.int8)
        places = None if misplaced or not text else place_of(window["offsets"], *span)
        held |= places is not None
        if not misplaced:
            null = int(np.flatnonzero((window["offsets"][:, 0] < 0) & (window["weights"] > 0))[0])
            window["targets"][list(places or (null, null)), (0, 1)] = 1
    if misplaced:
        there = context[start : start + len(text)] if start >= 0 else ""
        windows[0]["fault"] = (MISPLACED, f"at {start} stands {truncated_repr(there)}, not {truncated_repr(text)}")
    elif text and not held:
        windows[0]["fault"] = (LOST, truncated_repr(text))
    return windows


def _covered(windows: list[Example], start: int, end: int) -> tuple[int, int]:
    """The span without characters before the context's first token or after its last, which no window has."""
    offsets = np.concatenate([window["offsets"] for window in windows])
    offsets = offsets[offsets[:, 0] >= 0]
    return (max(start, int(offsets[:, 0].min())), min(end, int(offsets[:, 1].max()))) if len(offsets) else (start, end)


def place_of(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """The first and last token that cover the characters from `start` to `end`; None if the window lacks some of "
    "them."""
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if not len(inside) or offsets[inside[0], 0] > start or offsets[inside[-1], 1] < end:
        return None
    # A character may have several tokens: all of them belong to the answer.
    first, last = inside[offsets[inside, 1] > start], inside[offsets[inside, 0] < end]
    return (int(first[0]), int(last[-1])) if len(first) and len(last) and first[0] <= last[-1] else None


def answers_of(value: Any, name: str) -> list[tuple[str, int]] | None:
    """(text, first character) of the answers in a cell, without empty ones; None for a missing value."""
    if value is None:
        return None
    if isinstance(value, dict) and value.keys() >= {"text", "answer_start"}:
        pairs = [value["text"], value["answer_start"]]
        if all(isinstance(one, list) for one in pairs) and len(pairs[0]) == len(pairs[1]):
            value = [{"text": text, "answer_start": start} for text, start in zip(*pairs, strict=True)]
    good = isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("text"), str) and type(one.get("answer_start")) is int
        for one in value
    )
    if not good:
        raise_problems(
            [
                f"column {name!r} holds {truncated_repr(value)}, expected "
                f"{{'text': [texts], 'answer_start': [whole numbers]}}"
            ]
        )
    return [(one["text"], one["answer_start"]) for one in value if one["text"]]


def question_length(setting: EncodingContext, stride: int, most: int) -> int:
    """The most tokens of a question, at most `most`, that leave a window more than `stride` tokens of context.

    Raises UserError if there is no such number.
    """
    if setting.max_len is None:
        raise UserError(["questions and contexts cannot be cut into chunks: use Pad or Pack for config.batching"])
    special = setting.tokenizer.num_special_tokens_to_add(pair=True)
    available = setting.max_len - special - stride - 1
    if available < 1:
        raise_problems(
            [
                f"windows of {setting.max_len} tokens that share {stride} leave no tokens for a question: set "
                f"config.max_len to 384, or config.task.stride to a third of it, {setting.max_len // 3}"
            ]
        )
    return min(available, most)


def shortened(tokenizer: Any, questions: list[str], most: int) -> tuple[list[str], list[bool]]:
    """The questions, cut to `most` tokens, and which of them were cut."""
    cut = [False] * len(questions)
    questions = list(questions)
    encodings = tokenizer(questions, add_special_tokens=False, verbose=False).encodings
    for number, encoding in enumerate(encodings):
        keep = most
        while len(encoding) > most:  # once, unless the cut text is tokenized differently at its end
            cut[number] = True
            questions[number] = questions[number][: encoding.offsets[keep - 1][1]] if keep else ""
            encoding = tokenizer(questions[number], add_special_tokens=False, verbose=False).encodings[0]
            keep -= 1
    return questions, cut


def context_first(tokenizer: Any) -> bool:
    """Whether padding is on the left and the classification token is the last one."""
    if tokenizer.padding_side != "left" or tokenizer.cls_token_id is None:
        return False
    return tokenizer("", "")["input_ids"][-1:] == [tokenizer.cls_token_id]
