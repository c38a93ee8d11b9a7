"""Whether each of several answers to a question is right, one a row (MultiRC; Khashabi et al. 2018, section 5)."""

import numpy as np

from jaxft.config.component import config
from jaxft.metrics.declared import higher
from jaxft.metrics.superglue import multirc_metrics
from jaxft.metrics.units import EvalUnits, KeptRows
from jaxft.tasks.classify import Classify
from jaxft.tasks.template import column, columns_of


@config
class GroupedVerification(Classify):
    """Classify, and beside its metrics the share of questions all of whose rows are right (`exact_match`).

    Of two classes `f1`, over all rows, is the F1_a of Khashabi et al.
    """

    question: str = "question"  # column, or template: what the rows of a question have in common

    evaluates_texts = groups_rows = True

    def group_key(self, rows):
        return column(rows[:], self.question)

    def columns(self):
        return columns_of(self.text, self.pair, self.label, self.question)

    def metrics(self):
        return Classify.metrics(self) | higher("exact_match")

    def evaluate_predictions(self, kept, encoded, rows):
        questions, first = self.group_key(rows), {}
        own = encoded.source[kept["index"]].tolist()  # any of its rows stands for a question
        asked = KeptRows(kept, np.array([first.setdefault(questions[row], row) for row in own], np.int64))

        def measure(drawn):
            taken = asked.take(drawn)
            found = multirc_metrics(taken["place"].tolist(), taken["targets"], taken["logits"].argmax(-1))
            return self.compute_metrics({}, taken) | {"exact_match": found["exact_match"]}

        return EvalUnits(asked.rows, measure)
