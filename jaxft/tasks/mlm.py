"""Masked language modelling (Devlin et al. 2018, section 3.1)."""

import math

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import InnerFraction
from jaxft.problems import raise_problems, truncated_repr
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.long_texts import beginnings
from jaxft.tasks.template import column, columns_of
from jaxft.tasks.tokens import PredictsTokens


@config
class MaskedLM(PredictsTokens):
    """Hide `rate` of the ordinary tokens and predict them: 80% become the mask, 10% a random token, 10% stay.

    A text of m ordinary tokens has floor(rate * m + u) hidden ones, u uniform in [0, 1): `rate` of them on average,
    and never more than ceil(rate * m), so that the number of predictions a row needs is known beforehand.
    """

    text: str = "text"  # column, or template
    rate: InnerFraction = 0.15
    unit: str = "token"  # "word": all pieces of a word are hidden together (whole-word masking)

    head = "masked-lm"

    def problems(self):
        return (
            [] if self.unit in ("token", "word") else [f"unit is {truncated_repr(self.unit)}, expected token or word"]
        )

    def columns(self):
        return columns_of(self.text)

    def prepare(self, rows, setting):
        check_mask(setting)
        return self

    def encode(self, rows, setting):
        texts = beginnings(column(rows, self.text), setting.tokenizer, setting.max_len)
        out = setting.tokenizer(texts, **setting.truncation())
        return [_example(encoding, setting) for encoding in out.encodings]

    def random_transform(self, example, rng, setting):
        words = example["words"]
        at = self._choose(words, rng)
        tokens = example["tokens"].copy()
        targets = tokens[at]
        fate = rng.random(len(at))
        tokens[at[fate < 0.8]] = setting.tokenizer.mask_token_id
        swapped = at[fate >= 0.9]
        tokens[swapped] = rng.choice(setting.ordinary_ids, len(swapped))
        return {"tokens": tokens, "at": at, "targets": targets, "weights": np.ones(len(at), np.float32)}

    def slots(self, length):
        return math.ceil(self.rate * length)

    def _choose(self, words, rng) -> np.ndarray:
        """Sorted positions to hide; `words` has each token's word number, -1 for special tokens."""
        ordinary = np.flatnonzero(words >= 0)
        budget = math.floor(self.rate * len(ordinary) + rng.random())
        order = rng.permutation(ordinary)
        if self.unit == "token":
            return np.sort(order[:budget])
        chosen = []
        for word in dict.fromkeys(words[order].tolist()):
            pieces = np.flatnonzero(words == word)
            if len(chosen) + len(pieces) <= budget:  # a word that does not fit is passed over, as in BERT
                chosen.extend(pieces)
        return np.sort(np.array(chosen, np.int64))


def check_mask(setting: EncodingContext) -> None:
    """Raises UserError unless the tokenizer has a mask token."""
    if setting.tokenizer.mask_token_id is None:
        raise_problems(["the tokenizer has no mask token: set mask_token in tokenizer_config.json"])


def _example(encoding, setting):
    # By number: the encoding's own mask leaves out special tokens that stand in the text itself.
    special = np.isin(encoding.ids, setting.tokenizer.all_special_ids)
    if special.all():
        return "no ordinary token"
    words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int32)
    words[special] = -1
    return {"tokens": np.array(encoding.ids, np.int32), "words": words, "cut": len(encoding.overflowing) > 0}
