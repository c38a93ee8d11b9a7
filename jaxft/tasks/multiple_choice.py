"""Multiple choice: the right one of several texts, each read after the same question (Radford et al. 2018, fig. 1)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import Range
from jaxft.data.example import Example, Row
from jaxft.inference.settings import Inference, reads
from jaxft.metrics import Mean, choice_metrics
from jaxft.metrics.classes import CHOICES
from jaxft.metrics.declared import Metric, lower
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.problems import UserError, listed, raise_problems, truncated_repr
from jaxft.reports.figures import choice_figures
from jaxft.tasks.base import EncodingContext, Task, encode_texts, join_sub_texts, logits_of
from jaxft.tasks.labels import as_whole, class_name, is_missing, read_all
from jaxft.tasks.list_cells import list_of
from jaxft.tasks.segment_log_softmax import segment_log_softmax
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import column, columns_of, text_of

log = logging.getLogger("jaxft")


@config
class MultipleChoice(Task):
    """One right choice among two or more: the one with the highest score.

    The choices of a row are sub-texts of one example and do not attend to each other. Each has up to `config.max_len`
    tokens, including the question.
    """

    text: str = "question"  # column, or template: the common first text of all choices
    choices: tuple[str, ...] = ("choices",)  # a column or template for each choice, or the column that lists them
    # Column: the label of the choice, if the list gives labels (ARC: {"text": [...], "label": [...]}), else the name of
    # the choice's column, its number, or its letter from A.
    label: str = "label"
    first: Annotated[int, Range(0, 1)] | None = (
        None  # number of the first choice; None: inferred from the training data
    )

    head = "multiple-choice"

    def problems(self) -> list[str]:
        return [] if self.choices else ["choices are empty: name a column for each choice, or one that lists them"]

    def columns(self) -> list[str]:
        return columns_of(self.text, *self.choices, self.label)

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        if setting.max_len is None:
            raise_problems(["choices cannot be cut into chunks: use Pad or Pack for config.batching"])
        if self.first is not None:
            return self
        keys = read_all(rows.named(), lambda some: [key for row in some if (key := self._number(row)) is not None])
        return replace(self, first=_first(keys, self.label))

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        texts, lists = column(rows, self.text), choices_of(rows, self.choices)
        right = [self._place(row, len(choices)) for row, choices in zip(rows, lists, strict=True)]
        pairs = [(text, choice) for text, choices in zip(texts, lists, strict=True) for choice in choices]
        encoded = iter(
            encode_texts(setting, [text for text, _ in pairs], [choice for _, choice in pairs]) if pairs else ()
        )
        return [
            _joined([next(encoded) for _ in choices], number, setting)
            for choices, number in zip(lists, right, strict=True)
        ]

    def max_predictions(self, length: int) -> int | None:
        return 1  # `encode` makes one per choice, and they are counted

    def metrics(self) -> dict[str, Metric]:
        return lower("loss") | CHOICES

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        log_probs = segment_log_softmax(logits_of(out), batch["example_ids"])[..., 0]
        right = batch["targets"]
        return {"loss": Mean(-jnp.sum(jnp.where(right > 0, log_probs, 0.0)), jnp.sum(right))}

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return {"logits": logits_of(out)[..., 0], "targets": batch["targets"]}

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        return choice_metrics(outputs["targets"], outputs["logits"], outputs["index"])

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        return reads(self, self.text, *self.choices)

    def figures(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        return choice_figures(outputs["targets"], outputs["logits"], outputs["index"])

    def _names(self, row: Row) -> list[str]:
        """The names of the choices: their own labels, or their columns; [] if there are neither."""
        cell = row.get(self.choices[0])  # None for a template
        if len(self.choices) > 1 or not isinstance(cell, dict):
            return list(self.choices) if len(self.choices) > 1 else []
        return [class_name(name, self.choices[0]) or "" for name in list_of(cell.get("label")) or ()]

    def _number(self, row: Row) -> tuple[int, int] | None:
        """(the number that the row's label is, how many choices there are); None if it is not a number, or a name."""
        names, key = self._names(row), class_name(row[self.label], self.label)
        if key is None or not as_whole(key).isdecimal() or (len(self.choices) == 1 and names) or key in names:
            return None
        return int(as_whole(key)), len(choices_of([row], self.choices)[0])

    def _place(self, row: Row, count: int) -> int | None:
        """Which of `count` choices is right, from 0; None for a missing label."""
        names, first = self._names(row), self.first or 0
        known = {name: place for place, name in enumerate(names)}
        if len(self.choices) > 1 or not names:
            letters = {chr(ord("A") + place): place for place in range(min(count, 26))}
            known = {str(first + place): place for place in range(count)} | letters | known
        key = class_name(row[self.label], self.label, known)
        if key is None:
            return None
        if known.get(key, count) >= count:
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
        return known[key]


def _first(keys: list[tuple[int, int]], column: str) -> int:
    """The number of the first choice, 0 or 1, inferred from all numbers of right choices and numbers of choices."""
    zero, last = any(key == 0 for key, _ in keys), any(key == count for key, count in keys)
    if last and not zero:
        log.info("column %r numbers the choices from 1", column)
    elif keys and not zero:
        log.warning(
            "column %r never holds 0, but its numbers are read from 0: if they begin with 1, set config.task.first=1",
            column,
        )
    return int(last and not zero)


def choices_of(rows: list[Row], names: tuple[str, ...]) -> list[list[str]]:
    """The choices of each row: one per column, or those that a single column lists."""
    if len(names) > 1:
        return [list(texts) for texts in zip(*(column(rows, name) for name in names), strict=True)]
    return [_listed(row[names[0]], names[0]) for row in rows]


def _listed(value: Any, name: str) -> list[str]:
    if isinstance(value, dict) and "text" in value:  # {"text": [...], "label": [...]}
        value = value["text"]
    items = [] if value is None else list_of(value)
    if items is None:
        raise UserError(
            [f"column {name!r} holds {truncated_repr(value)}, expected a list of texts; or name several columns"]
        )
    return ["" if is_missing(item) else text_of(item, name) for item in items]


def _joined(encoded: list[Example], number: int | None, setting: EncodingContext) -> Example | str:
    """The example of a row's choices, or why the row is left out."""
    if number is None:
        return "no label"
    if len(encoded) < 2:
        return "fewer than two choices"
    example = join_sub_texts(encoded, setting.pool_token)
    if not isinstance(example, str):
        example["targets"] = np.eye(len(encoded), dtype=np.float32)[number]
    return example
