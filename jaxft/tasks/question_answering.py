"""Extractive question answering: the answer is a span of the context, or there is none (SQuAD 1.1 and 2.0)."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import Count, Finite, Fraction, NonNegativeInt
from jaxft.inference.settings import SpanDecoding, reads
from jaxft.metrics import Mean
from jaxft.metrics.declared import lower
from jaxft.metrics.units import EvalUnits
from jaxft.problems import raise_problems, truncated_repr
from jaxft.reports.figures import answer_figures
from jaxft.tasks.base import EncodingContext, Task, fault_problems
from jaxft.tasks.segment_log_softmax import segment_log_softmax
from jaxft.tasks.template import column, columns_of, ids_of
from jaxft.text.graphemes import widened
from jaxft.text.spans import SQUAD, choose, squad_metrics, squad_scores, trimmed

MISPLACED = "an answer that is not where answer_start says"
LOST = "an answer that no window holds"


@config
class QuestionAnswering(Task):
    """Start and end of the answer among a question's and its context's tokens.

    A context that is too long is read in windows that overlap by `stride` tokens; a window without the answer has
    none. Only the context is cut, and questions of more than `max_query_length` tokens. Where the tokenizer ends with
    its classification token and pads on the left (XLNet), the context comes first.

    An answer is {"text": [...], "answer_start": [...]}, of which the first is learned; empty lists: there is none.
    Rows whose answer is not at `answer_start` teach nothing, but are evaluated by their texts.
    """

    question: str = "question"  # column
    context: str = "context"
    answers: str = "answers"
    id: str = "id"  # column that names the questions in predictions; without it they are numbered from 0
    stride: NonNegativeInt = 128  # tokens that neighbouring windows share
    max_query_length: Count = 64  # tokens
    n_best_size: Count = 20  # spans that are kept of each question
    max_answer_length: Count = 30  # tokens
    null_threshold: Finite | None = None  # no answer must be better by more than this; None: 0, or infinite in a set
    # whose questions all have an answer
    fault_limit: Fraction = 0.01  # largest share of rows with answers that are misplaced, or that no window holds

    head = "question-answering"
    evaluates_texts = True

    def columns(self):
        return columns_of(self.question, self.context, self.answers)

    def prepare(self, rows, setting):
        question_room(setting, self.stride, self.max_query_length)
        return self

    def encode(self, rows, setting):
        golds = [answers_of(row[self.answers], self.answers) for row in rows]
        questions, contexts = column(rows, self.question), column(rows, self.context)
        read = windows(setting, questions, contexts, self.stride, self.max_query_length)
        return [_targeted(*one) for one in zip(read, contexts, golds, strict=True)]

    def check_data(self, report):
        return fault_problems(report, self.fault_limit)

    def metrics(self):
        return lower("loss") | SQUAD

    def loss(self, out, batch):
        """The mean of both cross entropies over the tokens of each window; `count` is the number of windows."""
        marks = batch["targets"]
        errors = -jnp.sum(marks * segment_log_softmax(out.logits, batch["segments"])) / 2
        return {"loss": Mean(errors, jnp.sum(marks[..., 0], dtype=jnp.float32))}

    def eval_outputs(self, out, batch):
        """Logits of all tokens that an answer may begin or end with: memory grows with the evaluation set's tokens."""
        return {"logits": out.logits}

    def compute_metrics(self, sums, kept):
        return {}

    def inference(self, results):
        """The threshold is that of the evaluation: 0 where a set had questions without an answer."""
        silent = any("NoAns_total" in numbers for numbers in results.values())
        threshold = 0.0 if self.null_threshold is None and silent else self.null_threshold
        sizes = {name: getattr(self, name) for name in ("stride", "max_query_length", "n_best_size")}
        decoding = SpanDecoding(**sizes, max_answer_length=self.max_answer_length, null_threshold=threshold)
        return reads(self, self.question, self.context, decoding=decoding)

    def evaluate_predictions(self, kept, encoded, rows):
        choices: dict[int, list] = {}
        cuts = np.flatnonzero(np.diff(kept["index"], prepend=-1, append=-1))
        for start, stop in pairwise(cuts.tolist()):
            number = int(kept["index"][start])
            window = encoded[number]
            offsets = window["offsets"][window["weights"] > 0]
            choices.setdefault(int(encoded.source[number]), []).append((kept["logits"][start:stop], offsets))
        return self._judged([(number, row, choices.get(number, [])) for number, row in enumerate(rows)])

    def _judged(self, read) -> EvalUnits:
        """Questions by number, row and windows, with the answers as SQuAD's script takes them."""
        golds, choices, contexts = [], [], []
        asked = [one for one in read if one[1][self.answers] is not None]
        for _, row, found in asked:
            golds.append([text for text, _ in answers_of(row[self.answers], self.answers)])
            contexts.append("" if row[self.context] is None else str(row[self.context]))
            choices.append(choose(found, contexts[-1], self.n_best_size, self.max_answer_length))
        threshold = self.null_threshold
        if threshold is None:
            threshold = np.inf if all(map(any, golds)) else 0.0
        best = [choice.text(context, np.inf) for choice, context in zip(choices, contexts, strict=True)]
        no_answer = np.array([choice.no_answer for choice in choices])
        names = ids_of([row for _, row, _ in asked], self.id)
        given = [text if score <= threshold else "" for text, score in zip(best, no_answer, strict=True)]
        files = {".json": dict(zip(names, given, strict=True))}
        if threshold < np.inf:
            files[".null_odds.json"] = dict(zip(names, np.nan_to_num(no_answer).tolist(), strict=True))
        scores = squad_scores(best, golds, no_answer)

        def measure(drawn):
            return squad_metrics(scores.take(drawn), threshold)

        questions = ["" if row[self.question] is None else str(row[self.question]) for _, row, _ in asked]
        figures = answer_figures(questions, golds, given, np.where(no_answer <= threshold, *scores.f1.T))
        return EvalUnits(np.array([number for number, _, _ in asked], np.int64), measure, files, tuple(figures))


def windows(
    setting: EncodingContext, questions: list[str], contexts: list[str], stride: int, most: int
) -> list[list[dict]]:
    """For each question and its context the windows that hold all of the context, none where there is no token.

    A window is an example without targets. `weights` is 1 for tokens that an answer may begin or end with and for the
    one that stands for no answer: the classification token or, without one, the first. `offsets` int32 (n, 2) are the
    characters of the context that such a token covers, whole graphemes; -1 for all others. Questions keep at most
    `most` tokens.
    """
    if not questions:
        return []  # which the tokenizer cannot say
    questions, cut = shortened(setting.tokenizer, questions, question_room(setting, stride, most))
    turned = context_first(setting.tokenizer)
    out = setting.tokenizer(
        *((contexts, questions) if turned else (questions, contexts)),
        truncation="only_first" if turned else "only_second",
        max_length=setting.max_len,
        stride=stride,
        return_overflowing_tokens=True,
    )
    found: list[list[dict]] = [[] for _ in questions]
    for number, row in enumerate(out["overflow_to_sample_mapping"]):
        encoding = out.encodings[number]
        if len(encoding):
            window = _window(encoding, contexts[row], setting.tokenizer.cls_token_id, 0 if turned else 1)
            if "token_type_ids" in out:
                window["types"] = np.array(encoding.type_ids, np.int32)
            found[row].append(window | {"cut": cut[row] and not found[row]})
    return found


def _window(encoding, text: str, cls: int | None, context: int) -> dict:
    """`text` is the context, and `context` its place in the pair."""
    tokens = np.array(encoding.ids, np.int32)
    parts = np.array([-1 if part is None else part for part in encoding.sequence_ids])
    inside = parts == context
    null = np.flatnonzero((tokens == cls) & (parts == -1)) if cls is not None else ()
    null = null[0] if len(null) else 0
    inside[null] = False
    spans = np.array(encoding.offsets, np.int32)
    spans[inside] = widened(text, spans[inside])
    offsets = np.where(inside[:, None], spans, -1)
    weights = inside.astype(np.float32)
    weights[null] = 1.0
    return {"tokens": tokens, "offsets": offsets, "weights": weights}


def _targeted(read: list[dict], context: str, golds: list[tuple[str, int]] | None) -> list[dict] | str:
    """The windows with `targets` int8 (n, 2), 1 at the start and at the end; or why there are none."""
    if golds is None:
        return "no answers, not even an empty list"
    if not read:
        return "no text"
    text, start = golds[0] if golds else ("", 0)
    misplaced = context[start : start + len(text)] != text or start < 0
    span = _covered(read, *trimmed(context, start, start + len(text)))
    held = False
    for window in read:
        window["targets"] = np.zeros((len(window["tokens"]), 2), np.int8)
        places = None if misplaced or not text else place_of(window["offsets"], *span)
        held |= places is not None
        if not misplaced:
            null = int(np.flatnonzero((window["offsets"][:, 0] < 0) & (window["weights"] > 0))[0])
            window["targets"][(null, null) if places is None else places, (0, 1)] = 1
    if misplaced:
        there = context[start : start + len(text)] if start >= 0 else ""
        read[0]["fault"] = (MISPLACED, f"at {start} stands {truncated_repr(there)}, not {truncated_repr(text)}")
    elif text and not held:
        read[0]["fault"] = (LOST, truncated_repr(text))
    return read


def _covered(read: list[dict], start: int, end: int) -> tuple[int, int]:
    """The span without what lies in front of the context's first token or behind its last: no window has that."""
    offsets = np.concatenate([window["offsets"] for window in read])
    offsets = offsets[offsets[:, 0] >= 0]
    return (max(start, int(offsets[:, 0].min())), min(end, int(offsets[:, 1].max()))) if len(offsets) else (start, end)


def place_of(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First and last token that cover the characters from `start` up to `end`; None if a part is not in the window."""
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if not len(inside) or offsets[inside[0], 0] > start or offsets[inside[-1], 1] < end:
        return None
    # Several tokens may be pieces of one character: all of them belong to the answer.
    first, last = inside[offsets[inside, 1] > start], inside[offsets[inside, 0] < end]
    return (int(first[0]), int(last[-1])) if len(first) and len(last) and first[0] <= last[-1] else None


def answers_of(value, name: str) -> list[tuple[str, int]] | None:
    """(text, first character) of a cell's answers that are not empty; None for a cell without value."""
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


def question_room(setting: EncodingContext, stride: int, most: int) -> int:
    """Tokens of a question that leave a window more than `stride` tokens of context. Raises UserError for none."""
    if setting.max_len is None:
        raise_problems(
            ["questions and their contexts are no running text: use Pad or Pack for config.batching, not Chunk"]
        )
    special = setting.tokenizer.num_special_tokens_to_add(pair=True)
    room = setting.max_len - special - stride - 1
    if room < 1:
        raise_problems(
            [
                f"windows of {setting.max_len} tokens that share {stride} leave no room for a question: set "
                f"config.max_len to 384, or config.task.stride to a third of it, {setting.max_len // 3}"
            ]
        )
    return min(room, most)


def shortened(tokenizer, questions: list[str], most: int) -> tuple[list[str], list[bool]]:
    """The questions, of those with more than `most` tokens the beginning, and which of them were cut."""
    cut = [False] * len(questions)
    questions = list(questions)
    encodings = tokenizer(questions, add_special_tokens=False, verbose=False).encodings
    for number, encoding in enumerate(encodings):
        keep = most
        while len(encoding) > most:  # once, unless the last piece alone is read otherwise
            cut[number] = True
            questions[number] = questions[number][: encoding.offsets[keep - 1][1]] if keep else ""
            encoding = tokenizer(questions[number], add_special_tokens=False, verbose=False).encodings[0]
            keep -= 1
    return questions, cut


def context_first(tokenizer) -> bool:
    """Whether the classification token stands last, and padding first."""
    if tokenizer.padding_side != "left" or tokenizer.cls_token_id is None:
        return False
    return tokenizer("", "")["input_ids"][-1:] == [tokenizer.cls_token_id]
