"""Whether each of several answers to a question is right, one a row (MultiRC; Khashabi et al. 2018, section 5)."""

import numpy as np

from jaxft.configurable import config
from jaxft.tasks.classify import Classify
from jaxft.tasks.template import column, columns_of


@config
class Verify(Classify):
    """Classify, and beside its metrics the share of questions all of whose rows are right (`exact_match`).

    Of two classes `f1`, over all rows, is the F1_a of Khashabi et al.
    """

    question: str = "question"  # column, or template: what the rows of a question have in common

    def columns(self):
        return columns_of(self.text, self.pair, self.label, self.question)

    def judge(self, kept, encoded, rows):
        right = kept["logits"].argmax(-1) == kept["targets"]
        questions = column(rows[:], self.question)
        asked = [questions[row] for row in encoded.source[kept["index"]]]
        _, number = np.unique(asked, return_inverse=True)
        wrong = np.bincount(number, ~right)
        return {"exact_match": float(np.mean(wrong == 0))}, {}
