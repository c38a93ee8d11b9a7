"""Cloze questions: which name of a passage fills the gap of a question (ReCoRD; Zhang et al. 2018)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxft.config.component import config
from jaxft.data.encoded import Encoded
from jaxft.data.example import Example, Row
from jaxft.metrics import Mean
from jaxft.metrics.declared import Metric, higher, lower
from jaxft.metrics.superglue import RECORD, record_scores
from jaxft.metrics.units import EvalOutputs, EvalUnits, GroupedOutputs
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.problems import UserError, raise_problems, truncated_repr
from jaxft.tasks.base import EncodingContext, Task
from jaxft.tasks.classify import Classify
from jaxft.tasks.labelled_texts import labelled
from jaxft.tasks.labels import is_missing
from jaxft.tasks.list_cells import list_of
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import column, columns_of, ids_of, text_of

WRONG_OR_RIGHT = Classify(labels=("wrong", "right"))


@config
class Cloze(Task):
    """Classifies each name of a passage as right or wrong in the gap; the most probable name is the answer.

    Metrics, from 0 to 1: `exact_match` and `f1` of the answers (metrics/superglue.py), and `accuracy` over all names.
    """

    text: str = "passage"  # column, or template
    query: str = "query"  # column, or template: the question, with a gap
    names: str = "entities"  # column: lists of names
    answers: str = "answers"  # column: lists of right names, all equally good
    gap: str = "@placeholder"  # what stands for the gap in the question
    id: str | None = None  # column, or template: ids of the rows in files of answers; None: row numbers from 0
    labels: tuple[str, ...] = ("wrong", "right")

    head = "sequence-classification"
    evaluates_texts = True
    problem_type = "single_label_classification"

    def columns(self) -> list[str]:
        return columns_of(self.text, self.query, self.names, self.answers, self.id)

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        texts = zip(column(rows, self.text), column(rows, self.query), strict=True)
        return [self._examples(row, *two, setting) for row, two in zip(rows, texts, strict=True)]

    def max_predictions(self, length: int) -> int | None:
        return 1

    def metrics(self) -> dict[str, Metric]:
        return lower("loss") | higher("accuracy") | RECORD

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        return WRONG_OR_RIGHT.loss(out, batch)

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return WRONG_OR_RIGHT.eval_outputs(out, batch)

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        return {"accuracy": float(np.mean(outputs["logits"].argmax(-1) == outputs["targets"]))}

    def evaluate_predictions(self, outputs: EvalOutputs, encoded: Encoded, rows: SourceRows) -> EvalUnits:
        margin = outputs["logits"][:, 1].astype(np.float64) - outputs["logits"][:, 0]
        source, first = encoded.source, np.searchsorted(encoded.source, encoded.source)
        best: dict[int, tuple[float, int]] = {}
        for score, number in zip(margin.tolist(), outputs["index"].tolist(), strict=True):
            row, place = int(source[number]), number - int(first[number])
            best[row] = max(best.get(row, (-np.inf, 0)), (score, -place))  # of equal scores, the first name
        given = {
            row: distinct_texts(rows[row][self.names], self.names)[-place] for row, (_, place) in sorted(best.items())
        }
        golds = [distinct_texts(rows[row][self.answers], self.answers) for row in given]
        scores, groups = record_scores([*given.values()], golds), GroupedOutputs(outputs, source[outputs["index"]])
        ids = ids_of(rows[:], self.id)

        def measure(drawn: np.ndarray) -> dict[str, float]:
            means = {name: float(values[drawn].mean()) for name, values in scores.items()}
            return self.compute_metrics({}, groups.take(drawn)) | means

        return EvalUnits(groups.rows, measure, {".json": {ids[row]: text for row, text in given.items()}})

    def _examples(self, row: Row, passage: str, query: str, setting: EncodingContext) -> list[Example] | str:
        if is_missing(row[self.answers]):
            return "no answers"
        names, right = distinct_texts(row[self.names], self.names), set(distinct_texts(row[self.answers], self.answers))
        if self.gap not in query:
            raise_problems(
                [f"column {self.query!r} holds {truncated_repr(query)}, without the gap {truncated_repr(self.gap)}"]
            )
        if not names:
            return "no names"
        queries = [{"text": passage, "pair": query.replace(self.gap, name)} for name in names]
        targets = [np.array([name in right], np.int32) for name in names]
        examples = labelled(PAIRED, queries, setting, targets)
        return [example for example in examples if not isinstance(example, str)] or "no text"


PAIRED = Classify(text="text", pair="pair")


def distinct_texts(value: Any, column: str) -> list[str]:
    """The distinct texts of a cell that lists them."""
    items = list_of(value)
    if items is None:
        raise UserError([f"column {column!r} holds {truncated_repr(value)}, expected a list of texts"])
    return list(dict.fromkeys(text_of(one, column).strip() for one in items if not is_missing(one)))
