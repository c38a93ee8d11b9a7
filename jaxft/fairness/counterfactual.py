"""Predictions of a classifier for texts, and for the same texts with terms swapped."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import softmax

from jaxft.data.source import Rows
from jaxft.fairness.swaps import Swaps
from jaxft.host.output_file import atomic_write
from jaxft.host.strict_json import dumps
from jaxft.inference.answers import AnsweringModel, decision_of, label_names
from jaxft.inference.model import LoadedModel
from jaxft.metrics.decisions import Decision
from jaxft.models.heads import Classifier
from jaxft.models.model import Outputs
from jaxft.problems import UserError, with_row_numbers
from jaxft.tasks.labels import class_numbers, read_all
from jaxft.tasks.template import column

log = logging.getLogger("jaxft")

Texts = tuple[str, ...]  # of a row: one, or a pair


@dataclass
class Compared:
    """The m rows that contain a term, before and after the swap."""

    rows: int  # number of all rows
    labels: list[str]  # class names by id
    numbers: list[int]  # of the m rows, from 0
    originals: list[Texts]
    swapped: list[Texts]
    terms: list[list[str]]  # of each row, without repetitions
    scores: np.ndarray  # float64 (m, classes), probabilities for the original texts
    swapped_scores: np.ndarray  # float64 (m, classes), for the swapped texts
    targets: np.ndarray | None  # int64 (m,), the true classes
    decision: Callable[[np.ndarray], np.ndarray] = Decision()  # logits -> numbers of the predictions

    def summary(self) -> dict[str, Any]:
        """Results as a JSON value. All but `rows` are about the rows that contain a term.

        rows, swapped       number of all rows, and of those that contain a term
        accuracy            for the original texts; `swapped_accuracy`: for the swapped ones; `paired_accuracy`:
                            fraction of rows with both predictions right. Only if the true classes are known
        changed             fraction of rows whose prediction changes
        mean_gap, max_gap   absolute change of the probability of the original prediction
        terms               term -> `rows`, the accuracies, `changed` and `mean_gap` of the rows that contain it, and
                            `shift`: for each class the mean probability with the term minus that with the other one
        """
        terms = sorted({term for some in self.terms for term in some})
        all_rows = np.ones(len(self.numbers), bool)
        return {
            "rows": self.rows,
            "swapped": len(self.numbers),
            **self._numbers(all_rows),
            "max_gap": float(self._gaps(all_rows).max()),
            "terms": {term: self._of_term(np.array([term in some for some in self.terms])) for term in terms},
        }

    def _of_term(self, held: np.ndarray) -> dict[str, Any]:
        shift = (self.scores - self.swapped_scores)[held].mean(0).tolist()
        return {"rows": int(held.sum()), **self._numbers(held), "shift": dict(zip(self.labels, shift, strict=True))}

    def _numbers(self, held: np.ndarray) -> dict[str, float]:
        """Results for the rows where the mask (m,) is true."""
        before, after = self._classes(self.scores[held]), self._classes(self.swapped_scores[held])
        values: dict[str, np.ndarray] = {}
        if self.targets is not None:
            right, still_right = before == self.targets[held], after == self.targets[held]
            values = {"accuracy": right, "swapped_accuracy": still_right, "paired_accuracy": right & still_right}
        values |= {"changed": before != after, "mean_gap": self._gaps(held)}
        return {name: float(of_rows.mean()) for name, of_rows in values.items()}

    def _gaps(self, held: np.ndarray) -> np.ndarray:
        before, after = self.scores[held], self.swapped_scores[held]
        return np.abs(before - after)[np.arange(len(before)), self._classes(before)]

    def _classes(self, scores: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return self.decision(np.log(scores))

    def write(self, path: str) -> None:
        """Writes one JSON line for each row that contains a term; replaces the file atomically."""
        before, after = self._classes(self.scores), self._classes(self.swapped_scores)
        with atomic_write(path) as partial, open(partial, "w") as file:
            for i, number in enumerate(self.numbers):
                line: dict[str, Any] = {
                    "row": number + 1,
                    "terms": self.terms[i],
                    "texts": self.originals[i],
                    "swapped_texts": self.swapped[i],
                    "label": self.labels[before[i]],
                    "swapped_label": self.labels[after[i]],
                    "score": float(self.scores[i, before[i]]),
                    "swapped_score": float(self.swapped_scores[i, before[i]]),  # of the same class
                }
                line |= {} if self.targets is None else {"target": self.labels[self.targets[i]]}
                file.write(dumps(line, ensure_ascii=False) + "\n")


def compare(
    texts: list[Texts],
    targets: np.ndarray | None,
    labels: list[str],
    swaps: Swaps,
    scores: Callable[[list[Texts]], np.ndarray],
) -> Compared:
    """Scores the rows that contain a term, and the same rows with all terms swapped.

    `texts` are those of n rows, `targets` int64 (n,) the true classes, `scores(texts)` probabilities, float (rows,
    classes). Raises UserError if no row contains a term.
    """
    numbers: list[int] = []
    swapped: list[Texts] = []
    terms: list[list[str]] = []
    for number, row in enumerate(texts):
        made = [swaps(text) for text in row]
        if found := list(dict.fromkeys(term for _, some in made for term in some)):
            numbers.append(number)
            swapped.append(tuple(text for text, _ in made))
            terms.append(found)
    if not numbers:
        raise UserError(f"none of {len(texts):,} rows contains a term to swap: check the column and the list of terms")
    originals = [texts[number] for number in numbers]
    before, after = (np.asarray(scores(some), np.float64) for some in (originals, swapped))
    targets = None if targets is None else targets[numbers]
    return Compared(len(texts), labels, numbers, originals, swapped, terms, before, after, targets)


def compare_rows(
    model: LoadedModel, rows: Rows, columns: list[str], label: str | None, swaps: Swaps, batch: int
) -> Compared:
    """`compare` with a loaded model and the rows of a source: texts are in `columns`, the true class in `label`.

    Raises UserError for a model that is not a single-label classifier, and with row numbers for cells that are not
    texts, or not classes of the model.
    """
    kind = model.pretrained.raw.get("problem_type") or "single_label_classification"
    head = model.arch.head
    classes = head.classes if model.arch.kind == "sequence-classification" and isinstance(head, Classifier) else 0
    if classes < 2 or kind != "single_label_classification":
        raise UserError("the model is not a single-label classifier: swapped terms cannot change its class")
    labels = label_names(model.pretrained, classes)
    held, class_ids = rows[:], None
    kept = list(range(len(held)))
    if label is not None:
        class_ids = read_all(rows, lambda some: class_numbers(some, label, labels, "class"))
        kept = [place for place, class_id in enumerate(class_ids) if class_id is not None]
        if len(kept) < len(held):
            log.info("%s: %s rows left out: no label", rows.name, f"{len(held) - len(kept):,}")

    def read(some: list[dict]) -> list[Texts]:
        return list(zip(*(column(some, name) for name in columns), strict=True))

    try:
        texts = read(held)
    except UserError as error:
        raise with_row_numbers(error, held, 1, rows.name, read) from None
    targets = None if class_ids is None else np.array([class_ids[place] for place in kept], np.int64)
    texts = [texts[place] for place in kept]
    found = compare(texts, targets, labels, swaps, lambda some: class_scores(model, some, batch))
    return replace(found, numbers=[kept[place] for place in found.numbers], decision=decision_of(model, labels))


def class_scores(model: LoadedModel, texts: list[Texts], batch: int) -> np.ndarray:
    """Probabilities, float64 (rows, classes)."""
    rows = [model.encoded(*some) for some in texts]

    def read(model: AnsweringModel, row: Any, out: Outputs, place: int) -> np.ndarray:
        assert out.logits is not None
        return np.asarray(out.logits[place], np.float64)

    logits = dict(model.answered(rows, batch, read))
    return softmax(np.stack([logits[number] for number in range(len(rows))]), -1)
