"""Which name stands in a question's gap (ReCoRD; Zhang et al. 2018)."""

import numpy as np

from jaxft.config.component import config
from jaxft.metrics.declared import higher, lower
from jaxft.metrics.superglue import RECORD, record_scores
from jaxft.metrics.units import EvalUnits, KeptRows
from jaxft.problems import raise_problems, truncated_repr
from jaxft.tasks.base import Task
from jaxft.tasks.classify import Classify, labelled
from jaxft.tasks.labels import is_missing
from jaxft.tasks.list_cells import list_of
from jaxft.tasks.template import column, columns_of, ids_of, text_of

WRONG_OR_RIGHT = Classify(labels=("wrong", "right"))


@config
class Cloze(Task):
    """Each name of a passage is right or wrong in the question's gap; the likeliest is the answer.

    Metrics, from 0 to 1: `exact_match` and `f1` of the answers (metrics/superglue.py), and `accuracy` over all names.
    """

    text: str = "passage"  # column, or template
    query: str = "query"  # column, or template: the question, with a gap
    names: str = "entities"  # column: lists of names
    answers: str = "answers"  # column: lists of the right ones, of which each is as good
    gap: str = "@placeholder"
    id: str | None = None  # column, or template, that names the rows in predictions; None: they are numbered from 0
    labels: tuple[str, ...] = ("wrong", "right")

    head = "sequence-classification"
    evaluates_texts = True
    problem_type = "single_label_classification"

    def columns(self):
        return columns_of(self.text, self.query, self.names, self.answers, self.id)

    def encode(self, rows, setting):
        texts = zip(column(rows, self.text), column(rows, self.query), strict=True)
        return [self._examples(row, *two, setting) for row, two in zip(rows, texts, strict=True)]

    def slots(self, length):
        return 1

    def metrics(self):
        return lower("loss") | higher("accuracy") | RECORD

    def loss(self, out, batch):
        return WRONG_OR_RIGHT.loss(out, batch)

    def eval_outputs(self, out, batch):
        return WRONG_OR_RIGHT.eval_outputs(out, batch)

    def compute_metrics(self, sums, kept):
        return {"accuracy": float(np.mean(kept["logits"].argmax(-1) == kept["targets"]))}

    def evaluate_predictions(self, kept, encoded, rows):
        sure = kept["logits"][:, 1].astype(np.float64) - kept["logits"][:, 0]
        source, first = encoded.source, np.searchsorted(encoded.source, encoded.source)
        best: dict[int, tuple[float, int]] = {}
        for score, number in zip(sure.tolist(), kept["index"].tolist(), strict=True):
            row, place = int(source[number]), number - int(first[number])
            best[row] = max(best.get(row, (-np.inf, 0)), (score, -place))  # of equals the first name
        given = {row: filled(rows[row][self.names])[-place] for row, (_, place) in sorted(best.items())}
        golds = [filled(rows[row][self.answers], self.answers) for row in given]
        scores, slots = record_scores([*given.values()], golds), KeptRows(kept, source[kept["index"]])
        ids = ids_of(rows[:], self.id)

        def measure(drawn):
            means = {name: float(values[drawn].mean()) for name, values in scores.items()}
            return self.compute_metrics({}, slots.take(drawn)) | means

        return EvalUnits(slots.rows, measure, {".json": {ids[row]: text for row, text in given.items()}})

    def _examples(self, row, passage, query, setting) -> list[dict] | str:
        right = row[self.answers]
        if is_missing(right):
            return "no answers"
        names, right = filled(row[self.names], self.names), set(filled(right, self.answers))
        if self.gap not in query:
            raise_problems(
                [f"column {self.query!r} holds {truncated_repr(query)}, without the gap {truncated_repr(self.gap)}"]
            )
        if not names:
            return "no names"
        queries = [{"text": passage, "pair": query.replace(self.gap, name)} for name in names]
        targets = [np.array([name in right], np.int32) for name in names]
        return labelled(PAIRED, queries, setting, targets)


PAIRED = Classify(text="text", pair="pair")


def filled(value, name: str = "") -> list[str]:
    """The distinct texts of a cell that lists them."""
    items = list_of(value)
    if items is None:
        raise_problems([f"column {name!r} holds {truncated_repr(value)}, expected a list of texts"])
    return list(dict.fromkeys(text_of(one, name).strip() for one in items if not is_missing(one)))
