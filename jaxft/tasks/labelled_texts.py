"""Examples of texts, or pairs of texts, that have one target each."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxft.data.example import Example, Row
from jaxft.tasks.base import EncodingContext, encode_texts
from jaxft.tasks.template import column


class ReadsTexts(Protocol):
    """A task whose rows are a text, or a pair of texts."""

    text: str
    pair: str | None
    drop_empty: bool


def labelled(
    task: ReadsTexts,
    rows: list[Row],
    setting: EncodingContext,
    targets: Sequence[np.ndarray | None],
    notes: Sequence[dict[str, int]] | None = None,
) -> list[Example | str]:
    """Examples with one prediction each. Rows whose target is None are left out."""
    texts = column(rows, task.text)
    examples: list[Example | str] = []
    encoded = encode_texts(setting, texts, column(rows, task.pair) if task.pair else None)
    for example, target, noted in zip(encoded, targets, notes or [{}] * len(rows), strict=True):
        if target is None:
            examples.append("no label")
        elif not len(example["tokens"]) or (task.drop_empty and example["empty"]):
            examples.append("no text")  # without any token, even a special one, the head has nothing to read
        else:
            last = len(example["tokens"]) - 1
            example["at"] = np.array([0 if setting.pool_token == "first" else last], np.int32)
            example["weights"] = np.ones(1, np.float32)
            example["targets"] = target
            if noted:
                example["notes"] = noted
            examples.append(example)
    return examples
