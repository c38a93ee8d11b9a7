"""Masked language modelling (Devlin et al. 2018, section 3.1)."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import InnerFraction
from jaxft.data.example import Example, Row
from jaxft.problems import raise_problems, truncated_repr
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.long_texts import beginnings
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import column, columns_of
from jaxft.tasks.tokens import PredictsTokens


@config
class MaskedLM(PredictsTokens):
    """Selects `rate` of the non-special tokens and predicts them: 80% become the mask, 10% a random token, 10% stay.

    A text with m non-special tokens has floor(rate * m + u) predictions, u uniform in [0, 1): `rate * m` on average,
    and at most ceil(rate * m), so that the maximum is known beforehand.
    """

    text: str = "text"  # column, or template
    rate: InnerFraction = 0.15  # share of the tokens that are predicted
    unit: str = "token"  # "word": all pieces of a word are masked together (whole-word masking)

    head = "masked-lm"

    def problems(self) -> list[str]:
        return (
            [] if self.unit in ("token", "word") else [f"unit is {truncated_repr(self.unit)}, expected token or word"]
        )

    def columns(self) -> list[str]:
        return columns_of(self.text)

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        check_mask(setting)
        return self

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        texts = beginnings(column(rows, self.text), setting.tokenizer, setting.max_len)
        out = setting.tokenizer(texts, **setting.truncation())
        return [_example(encoding, setting) for encoding in out.encodings]

    def random_transform(self, example: Example, rng: np.random.Generator, setting: EncodingContext) -> Example:
        words = example["words"]
        at = self._choose(words, rng)
        tokens = example["tokens"].copy()
        targets = tokens[at]
        fate = rng.random(len(at))
        tokens[at[fate < 0.8]] = setting.tokenizer.mask_token_id
        swapped = at[fate >= 0.9]
        tokens[swapped] = rng.choice(setting.ordinary_ids, len(swapped))
        return {"tokens": tokens, "at": at, "targets": targets, "weights": np.ones(len(at), np.float32)}

    def max_predictions(self, length: int) -> int | None:
        return math.ceil(self.rate * length)

    def _choose(self, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sorted positions to predict; `words` (n,) is the word of each token, -1 for special tokens."""
        ordinary = np.flatnonzero(words >= 0)
        budget = math.floor(self.rate * len(ordinary) + rng.random())
        order = rng.permutation(ordinary)
        if self.unit == "token":
            return np.sort(order[:budget])
        chosen: list[int] = []
        for word in dict.fromkeys(words[order].tolist()):
            pieces = np.flatnonzero(words == word)
            if len(chosen) + len(pieces) <= budget:  # a word that does not fit is skipped, as in BERT
                chosen.extend(pieces)
        return np.sort(np.array(chosen, np.int64))


def check_mask(setting: EncodingContext) -> None:
    """Raises UserError unless the tokenizer has a mask token."""
    if setting.tokenizer.mask_token_id is None:
        raise_problems(["the tokenizer has no mask token: set mask_token in tokenizer_config.json"])


def _example(encoding: Any, setting: EncodingContext) -> Example | str:
    # By id: the encoding's own mask does not mark special tokens of the text itself.
    special = np.isin(encoding.ids, setting.tokenizer.all_special_ids)
    if special.all():
        return "no ordinary token"
    words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int32)
    words[special] = -1
    return {"tokens": np.array(encoding.ids, np.int32), "words": words, "truncated": len(encoding.overflowing) > 0}
