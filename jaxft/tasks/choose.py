"""Multiple choice: the right one of several texts, each read behind the same question (Radford et al. 2018, fig. 1)."""

import jax.numpy as jnp
import numpy as np

from jaxft.configurable import config
from jaxft.metrics import Mean, choice_metrics
from jaxft.pictures import choice_figures
from jaxft.problems import raise_problems, shown
from jaxft.tasks.base import Setting, as_parts, encode_texts
from jaxft.tasks.shares import log_shares
from jaxft.tasks.template import column, columns_of, text_of


@config
class Choose:
    """One right choice among two or more, by the largest of their scores.

    The choices of a row stand one behind the other and do not see each other; each has up to `config.max_len` tokens,
    its question among them.
    """

    text: str = "question"  # column, or template: what all choices have in common
    choices: tuple[str, ...] = ("choices",)  # a column or template for each choice, or the column that lists them
    label: str = "label"  # column: the choice's number from 0, its letter from A, or the column that holds it

    head = "multiple-choice"

    def problems(self):
        return [] if self.choices else ["choices are empty: name a column for each choice, or one that lists them"]

    def columns(self):
        return columns_of(self.text, *self.choices, self.label)

    def prepare(self, rows, setting):
        if setting.max_len is None:
            raise_problems(["choices are no running text: use Pad or Pack for config.rows, not Chunk"])
        return self

    def encode(self, rows, setting):
        texts, lists = column(rows, self.text), choices_of(rows, self.choices)
        right = [self._number(row, len(choices)) for row, choices in zip(rows, lists, strict=True)]
        pairs = [(text, choice) for text, choices in zip(texts, lists, strict=True) for choice in choices]
        encoded = iter(encode_texts(setting, *map(list, zip(*pairs, strict=True))) if pairs else ())
        return [
            _joined([next(encoded) for _ in choices], number, setting)
            for choices, number in zip(lists, right, strict=True)
        ]

    def draw(self, example, rng, setting):
        return example

    def slots(self, length):
        return 1  # or more: they are counted

    def loss(self, out, batch):
        shares = log_shares(out.logits, batch["owners"])[..., 0]
        right = batch["targets"]
        return {"loss": Mean(-jnp.sum(jnp.where(right > 0, shares, 0.0)), jnp.sum(right))}

    def collect(self, out, batch):
        return {"logits": out.logits[..., 0], "targets": batch["targets"]}

    def summarise(self, sums, kept):
        return choice_metrics(kept["targets"], kept["logits"], kept["index"])

    def picture(self, kept):
        return choice_figures(kept["targets"], kept["logits"], kept["index"])

    def _number(self, row: dict, count: int) -> int | None:
        """Which of `count` choices is right; None for a row without label."""
        value = row[self.label]
        if value is None:
            return None
        name = text_of(value, self.label).strip()
        known = {str(number): number for number in range(count)}
        known |= {chr(ord("A") + number): number for number in range(min(count, 26))}
        known |= {choice: number for number, choice in enumerate(self.choices) if len(self.choices) > 1}
        if name == "-1":  # as data sets mark the labels that they keep to themselves
            return None
        if name not in known:
            columns = f", or one of {', '.join(self.choices)}" if len(self.choices) > 1 else ""
            raise_problems(
                [f"column {self.label!r} holds {shown(value)}, but there are {count} choices: expected a number from 0 "
                 f"to {count - 1}, or a letter from A{columns}"]
            )  # fmt: skip
        return known[name]


def choices_of(rows: list[dict], names: tuple[str, ...]) -> list[list[str]]:
    """The choices of each row: one a column, or those that a single column lists."""
    if len(names) > 1:
        return [list(texts) for texts in zip(*(column(rows, name) for name in names), strict=True)]
    return [_listed(row[names[0]], names[0]) for row in rows]


def _listed(value, name: str) -> list[str]:
    if isinstance(value, dict) and "text" in value:  # with the choices' names beside them
        value = value["text"]
    if value is not None and not isinstance(value, list):
        raise_problems([f"column {name!r} holds {shown(value)}, expected a list of texts; or name several columns"])
    return ["" if item is None else text_of(item, name) for item in value or ()]


def _joined(encoded: list[dict], number: int | None, setting: Setting) -> dict | str:
    """One example of a row's choices."""
    if number is None:
        return "no label"
    if len(encoded) < 2:
        return "fewer than two choices"
    example, right = as_parts(encoded, setting.reads), np.eye(len(encoded), dtype=np.float32)[number]
    return example if isinstance(example, str) else example | {"targets": right}
