"""A classifier asked about texts and about the same texts with terms swapped: do its answers change?"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from jaxft.fairness.swaps import Swaps
from jaxft.host.output_file import atomic_write
from jaxft.host.strict_json import dumps
from jaxft.inference.answers import label_names
from jaxft.problems import UserError, with_row_numbers
from jaxft.tasks.labels import class_numbers, read_all
from jaxft.tasks.template import column

log = logging.getLogger("jaxft")

Texts = tuple[str, ...]  # one, or a pair


@dataclass
class Compared:
    """The m of all rows that held a term, before and after the swap."""

    rows: int  # all of them
    labels: list[str]  # class names by number
    numbers: list[int]  # of the m rows, from 0
    originals: list[Texts]
    swapped: list[Texts]
    terms: list[list[str]]  # of each row, each once
    scores: np.ndarray  # float64 (m, classes), probabilities of the originals
    swapped_scores: np.ndarray  # likewise, of the swapped texts
    targets: np.ndarray | None  # int64 (m,), the true classes

    def summary(self) -> dict:
        """What came of it, in numbers. All but `rows` are of rows that held a term.

        rows, swapped       how many there are, how many held a term
        accuracy            share of right answers to the originals; `swapped_accuracy`: to the swapped texts;
                            `paired_accuracy`: to both of a pair. Where the true classes are known
        changed             share of rows whose answer changes
        mean_gap, max_gap   by how much the probability of the original's answer changes, whichever way
        terms               of the rows that hold it: `rows`, how many, the accuracies, `changed` and `mean_gap` as
                            above, and `shift`: by how much likelier a class is with the term than with what it becomes
        """
        terms = sorted({term for some in self.terms for term in some})
        all_of_them = np.ones(len(self.numbers), bool)
        return {
            "rows": self.rows,
            "swapped": len(self.numbers),
            **self._numbers(all_of_them),
            "max_gap": float(self._gaps(all_of_them).max()),
            "terms": {term: self._of_term(np.array([term in some for some in self.terms])) for term in terms},
        }

    def _of_term(self, held: np.ndarray) -> dict:
        shift = (self.scores - self.swapped_scores)[held].mean(0).tolist()
        return {"rows": int(held.sum()), **self._numbers(held), "shift": dict(zip(self.labels, shift, strict=True))}

    def _numbers(self, held: np.ndarray) -> dict[str, float]:
        """Of the rows that the mask (m,) chooses."""
        answers, swapped = self.scores[held].argmax(-1), self.swapped_scores[held].argmax(-1)
        shares = {}
        if self.targets is not None:
            right, still = answers == self.targets[held], swapped == self.targets[held]
            shares = {"accuracy": right, "swapped_accuracy": still, "paired_accuracy": right & still}
        shares |= {"changed": answers != swapped, "mean_gap": self._gaps(held)}
        return {name: float(values.mean()) for name, values in shares.items()}

    def _gaps(self, held: np.ndarray) -> np.ndarray:
        before, after = self.scores[held], self.swapped_scores[held]
        return np.abs(before - after)[np.arange(len(before)), before.argmax(-1)]

    def write(self, path: str) -> None:
        """One JSON line for each row that held a term; the file is there when all of it is."""
        answers, swapped = self.scores.argmax(-1), self.swapped_scores.argmax(-1)
        with atomic_write(path) as partial, open(partial, "w") as file:
            for i, number in enumerate(self.numbers):
                line = {
                    "row": number + 1,
                    "terms": self.terms[i],
                    "texts": self.originals[i],
                    "swapped_texts": self.swapped[i],
                    "label": self.labels[answers[i]],
                    "swapped_label": self.labels[swapped[i]],
                    "score": float(self.scores[i, answers[i]]),
                    "swapped_score": float(self.swapped_scores[i, answers[i]]),  # of the same class
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
    """What `scores` makes of the rows that hold a term, and of the same rows with all terms swapped.

    texts: of each of n rows. targets: int64 (n,), the true classes, or None. scores(some texts): float (rows, classes),
    probabilities. Raises UserError if no row holds a term.
    """
    numbers, swapped, terms = [], [], []
    for number, row in enumerate(texts):
        made = [swaps(text) for text in row]
        if found := list(dict.fromkeys(term for _, some in made for term in some)):
            numbers.append(number)
            swapped.append(tuple(text for text, _ in made))
            terms.append(found)
    if not numbers:
        raise UserError(f"none of {len(texts):,} rows holds a term to swap: is that the right column, the right list?")
    originals = [texts[number] for number in numbers]
    before, after = (np.asarray(scores(some), np.float64) for some in (originals, swapped))
    targets = None if targets is None else targets[numbers]
    return Compared(len(texts), labels, numbers, originals, swapped, terms, before, after, targets)


def compare_rows(model, rows, columns: list[str], label: str | None, swaps: Swaps, batch: int) -> Compared:
    """The same of a loaded model and a source's rows, whose texts are in `columns`, the true class in column `label`.

    Raises UserError for a model that does not choose one of several classes, and for cells that are no texts or no
    class of the model, by row.
    """
    kind = model.pretrained.raw.get("problem_type") or "single_label_classification"
    classes = model.arch.head.classes if model.arch.kind == "sequence-classification" else 0
    if classes < 2 or kind != "single_label_classification":
        raise UserError("the model does not choose one of several classes for a text, which swapped terms could change")
    labels = label_names(model.pretrained, classes)
    held, numbers = rows[:], None
    kept = list(range(len(held)))
    if label is not None:
        numbers = read_all(rows, lambda some: class_numbers(some, label, labels, "class"))
        kept = [place for place, number in enumerate(numbers) if number is not None]
        if len(kept) < len(held):
            log.info("%s: %s rows left out: no label", rows.name, f"{len(held) - len(kept):,}")

    def read(some):
        return list(zip(*(column(some, name) for name in columns), strict=True))

    try:
        texts = read(held)
    except UserError as error:
        raise with_row_numbers(error, held, 1, rows.name, read) from None
    targets = None if numbers is None else np.array([numbers[place] for place in kept], np.int64)
    texts = [texts[place] for place in kept]
    found = compare(texts, targets, labels, swaps, lambda some: class_scores(model, some, batch))
    return replace(found, numbers=[kept[place] for place in found.numbers])


def class_scores(model, texts: list[Texts], batch: int) -> np.ndarray:
    """Probabilities float64 (rows, classes)."""
    rows = [model.encoded(*some) for some in texts]
    logits = dict(model.answered(rows, batch, lambda model, row, out, place: np.asarray(out.logits[place], np.float64)))
    return softmax(np.stack([logits[number] for number in range(len(rows))]), -1)
