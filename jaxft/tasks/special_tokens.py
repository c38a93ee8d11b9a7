"""The special tokens that a tokenizer adds to texts, for tasks that join token ids instead of texts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.data.example import Example
from jaxft.problems import UserError


@dataclass(frozen=True)
class PairTemplate:
    """The special tokens around two texts, and the token types."""

    pieces: tuple[np.ndarray, np.ndarray, np.ndarray]  # int32: ids before, between and after the texts
    types: tuple[int, ...] | None  # of the front, first text, middle, second text and end; None: there are no types

    @property
    def count(self) -> int:
        """The number of special tokens."""
        return sum(map(len, self.pieces))

    def join(self, first: np.ndarray, second: np.ndarray, special: int | None = None) -> np.ndarray:
        """The ids of both texts with the special tokens, or with `special` in place of each special token; int32."""
        front, middle, end = self.pieces if special is None else [np.full(len(x), special) for x in self.pieces]
        return np.concatenate([front, first, middle, second, end]).astype(np.int32)

    def types_of(self, first: int, second: int) -> Example:
        """`types` of texts with `first` and `second` tokens; {} if the model has no types."""
        if self.types is None:
            return {}
        sizes = len(self.pieces[0]), first, len(self.pieces[1]), second, len(self.pieces[2])
        return {"types": np.repeat(np.array(self.types, np.int32), sizes)}


def single_template(tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """The special tokens before and after a single text, int32 each."""
    encoding = tokenizer("a").encodings[0]
    inside = np.flatnonzero([number is not None for number in encoding.sequence_ids])
    ids = np.array(encoding.ids, np.int32)
    return ids[: inside[0]], ids[inside[-1] + 1 :]


def pair_template(tokenizer: Any) -> PairTemplate:
    """The template of the tokenizer. Raises UserError if it does not put the first text first."""
    out = tokenizer("a", "a")
    encoding = out.encodings[0]
    text = np.array([-1 if number is None else number for number in encoding.sequence_ids])
    one, two = np.flatnonzero(text == 0), np.flatnonzero(text == 1)
    if not len(one) or not len(two) or one[-1] > two[0]:
        raise UserError(
            "the tokenizer does not put the first text of a pair before the second, as this task needs: use another "
            "model"
        )
    ids = np.array(encoding.ids, np.int32)
    pieces = ids[: one[0]], ids[one[-1] + 1 : two[0]], ids[two[-1] + 1 :]
    if "token_type_ids" not in out:
        return PairTemplate(pieces, None)
    kinds = out["token_type_ids"]
    first, second = kinds[one[0]], kinds[two[0]]
    of = [kinds[0] if len(pieces[0]) else first, first, kinds[one[-1] + 1] if len(pieces[1]) else first]
    return PairTemplate(pieces, (*of, second, kinds[-1]))
