"""Multiple choice: the right one of several texts, each read behind the same question (Radford et al. 2018, fig. 1)."""

import logging
from dataclasses import replace
from typing import Annotated

import jax.numpy as jnp
import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import Range
from jaxft.inference.settings import reads
from jaxft.metrics import Mean, choice_metrics
from jaxft.metrics.classes import CHOICES
from jaxft.metrics.declared import lower
from jaxft.problems import listed, raise_problems, truncated_repr
from jaxft.reports.figures import choice_figures
from jaxft.tasks.base import EncodingContext, Task, as_parts, encode_texts
from jaxft.tasks.labels import as_whole, class_name, is_missing, read_all
from jaxft.tasks.list_cells import list_of
from jaxft.tasks.segment_log_softmax import segment_log_softmax
from jaxft.tasks.template import column, columns_of, text_of

log = logging.getLogger("jaxft")


@config
class MultipleChoice(Task):
    """One right choice among two or more, by the largest of their scores.

    The choices of a row stand one behind the other and do not see each other; each has up to `config.max_len` tokens,
    its question among them.
    """

    text: str = "question"  # column, or template: what all choices have in common
    choices: tuple[str, ...] = ("choices",)  # a column or template for each choice, or the column that lists them
    label: str = "label"  # column: the choice's own label where the list gives them (ARC: {"text": [...], "label":
    # [...]}), else the column that holds it, its number, or its letter from A
    first: Annotated[int, Range(0, 1)] | None = None  # number of the first choice; None: as the training data

    head = "multiple-choice"

    def problems(self):
        return [] if self.choices else ["choices are empty: name a column for each choice, or one that lists them"]

    def columns(self):
        return columns_of(self.text, *self.choices, self.label)

    def prepare(self, rows, setting):
        if setting.max_len is None:
            raise_problems(["choices are no running text: use Pad or Pack for config.batching, not Chunk"])
        if self.first is not None:
            return self
        keys = read_all(rows.named(), lambda some: [key for row in some if (key := self._number(row)) is not None])
        return replace(self, first=_first(keys, self.label))

    def encode(self, rows, setting):
        texts, lists = column(rows, self.text), choices_of(rows, self.choices)
        right = [self._place(row, len(choices)) for row, choices in zip(rows, lists, strict=True)]
        pairs = [(text, choice) for text, choices in zip(texts, lists, strict=True) for choice in choices]
        encoded = iter(encode_texts(setting, *map(list, zip(*pairs, strict=True))) if pairs else ())
        return [
            _joined([next(encoded) for _ in choices], number, setting)
            for choices, number in zip(lists, right, strict=True)
        ]

    def slots(self, length):
        return 1  # or more: they are counted

    def metrics(self):
        return lower("loss") | CHOICES

    def loss(self, out, batch):
        shares = segment_log_softmax(out.logits, batch["owners"])[..., 0]
        right = batch["targets"]
        return {"loss": Mean(-jnp.sum(jnp.where(right > 0, shares, 0.0)), jnp.sum(right))}

    def eval_outputs(self, out, batch):
        return {"logits": out.logits[..., 0], "targets": batch["targets"]}

    def compute_metrics(self, sums, kept):
        return choice_metrics(kept["targets"], kept["logits"], kept["index"])

    def inference(self, results):
        return reads(self, self.text, *self.choices)

    def figures(self, kept):
        return choice_figures(kept["targets"], kept["logits"], kept["index"])

    def _names(self, row: dict) -> list[str]:
        """What the choices are called: their own labels, or their columns; [] where neither is there."""
        cell = row.get(self.choices[0])  # None for a template
        if len(self.choices) > 1 or not isinstance(cell, dict):
            return list(self.choices) if len(self.choices) > 1 else []
        return [class_name(name, self.choices[0]) or "" for name in list_of(cell.get("label")) or ()]

    def _number(self, row: dict) -> tuple[int, int] | None:
        """The number that a row's label is, and of how many choices, where it is no name of a choice."""
        names, key = self._names(row), class_name(row[self.label], self.label)
        if key is None or not as_whole(key).isdecimal() or (len(self.choices) == 1 and names) or key in names:
            return None
        return int(as_whole(key)), len(choices_of([row], self.choices)[0])

    def _place(self, row: dict, count: int) -> int | None:
        """Which of `count` choices is right, from 0; None for a row without label."""
        names, first = self._names(row), self.first or 0
        known = {name: place for place, name in enumerate(names)}
        if len(self.choices) > 1 or not names:
            letters = {chr(ord("A") + place): place for place in range(min(count, 26))}
            known = {str(first + place): place for place in range(count)} | letters | known
        key = class_name(row[self.label], self.label, known)
        if key is not None and known.get(key, count) >= count:
            numbers = f"a number from {first} to {first + count - 1}, or a letter from A"
            fix = (
                listed(names)
                if len(self.choices) == 1 and names
                else ", or one of ".join([numbers, *([listed(names)] if names else [])])
            )
            raise_problems(
                [
                    f"column {self.label!r} holds {truncated_repr(row[self.label])}, but there are {count} choices: "
                    f"expected {fix}"
                ]
            )
        return known.get(key)


def _first(keys: list[tuple[int, int]], column: str) -> int:
    """The number of the first choice, of all labels that are numbers with how many choices there are."""
    zero, last = any(key == 0 for key, _ in keys), any(key == count for key, count in keys)
    if last and not zero:
        log.info("column %r numbers the choices from 1", column)
    elif keys and not zero:
        log.warning(
            "column %r never holds 0, but its numbers are read from 0; if they begin with 1, set config.task.first=1",
            column,
        )
    return int(last and not zero)


def choices_of(rows: list[dict], names: tuple[str, ...]) -> list[list[str]]:
    """The choices of each row: one a column, or those that a single column lists."""
    if len(names) > 1:
        return [list(texts) for texts in zip(*(column(rows, name) for name in names), strict=True)]
    return [_listed(row[names[0]], names[0]) for row in rows]


def _listed(value, name: str) -> list[str]:
    if isinstance(value, dict) and "text" in value:  # with the choices' names beside them
        value = value["text"]
    items = [] if value is None else list_of(value)
    if items is None:
        raise_problems(
            [f"column {name!r} holds {truncated_repr(value)}, expected a list of texts; or name several columns"]
        )
    return ["" if is_missing(item) else text_of(item, name) for item in items]


def _joined(encoded: list[dict], number: int | None, setting: EncodingContext) -> dict | str:
    """One example of a row's choices."""
    if number is None:
        return "no label"
    if len(encoded) < 2:
        return "fewer than two choices"
    example, right = as_parts(encoded, setting.pool_token), np.eye(len(encoded), dtype=np.float32)[number]
    return example if isinstance(example, str) else example | {"targets": right}
