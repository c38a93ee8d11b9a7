"""Verification of several answers to a question, one per row (MultiRC; Khashabi et al. 2018, section 5)."""

import numpy as np

from jaxft.config.component import config
from jaxft.data.encoded import Encoded
from jaxft.metrics.declared import Metric, higher
from jaxft.metrics.superglue import multirc_metrics
from jaxft.metrics.units import EvalOutputs, EvalUnits, GroupedOutputs
from jaxft.tasks.classify import Classify
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import column, columns_of


@config
class GroupedVerification(Classify):
    """Classify, with a further metric: `exact_match`, the share of questions with all rows predicted right.

    With two classes, `f1` over all rows is the F1_a of Khashabi et al.
    """

    question: str = "question"  # column, or template: equal for the rows of one question

    evaluates_texts = groups_rows = True

    def group_key(self, rows: SourceRows) -> list[str]:
        return column(rows[:], self.question)

    def columns(self) -> list[str]:
        return columns_of(self.text, self.pair, self.label, self.question)

    def metrics(self) -> dict[str, Metric]:
        return Classify.metrics(self) | higher("exact_match")

    def evaluate_predictions(self, outputs: EvalOutputs, encoded: Encoded, rows: SourceRows) -> EvalUnits:
        questions = self.group_key(rows)
        first: dict[str, int] = {}  # question -> its first row
        own = encoded.source[outputs["index"]].tolist()
        asked = GroupedOutputs(outputs, np.array([first.setdefault(questions[row], row) for row in own], np.int64))

        def measure(drawn: np.ndarray) -> dict[str, float]:
            taken = asked.take(drawn)
            found = multirc_metrics(taken["place"], taken["targets"], self.decision(taken["logits"]))
            return self.compute_metrics({}, taken) | {"exact_match": found["exact_match"]}

        return EvalUnits(asked.rows, measure)
