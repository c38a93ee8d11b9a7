"""What a tokenizer puts around two texts, for tasks that join tokens instead of texts."""

from dataclasses import dataclass

import numpy as np

from jaxft.problems import UserError


@dataclass(frozen=True)
class PairTemplate:
    """Special tokens in front of, between and behind two texts, int32 each, and the text types of all five pieces."""

    pieces: tuple[np.ndarray, np.ndarray, np.ndarray]
    types: tuple[int, ...] | None  # of front, first text, middle, second text, end; None: the model has no types

    @property
    def count(self) -> int:
        """How many special tokens there are."""
        return sum(map(len, self.pieces))

    def join(self, first: np.ndarray, second: np.ndarray, special: int | None = None) -> np.ndarray:
        """Both texts' numbers, with the special tokens, or with `special` in the place of each."""
        front, middle, end = self.pieces if special is None else [np.full(len(x), special) for x in self.pieces]
        return np.concatenate([front, first, middle, second, end]).astype(np.int32)

    def types_of(self, first: int, second: int) -> dict[str, np.ndarray]:
        """{"types": ...} of two texts of so many tokens; {} where the model has none."""
        if self.types is None:
            return {}
        sizes = len(self.pieces[0]), first, len(self.pieces[1]), second, len(self.pieces[2])
        return {"types": np.repeat(np.array(self.types, np.int32), sizes)}


def alone(tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Special tokens in front of and behind a single text, int32 each."""
    encoding = tokenizer("a").encodings[0]
    inside = np.flatnonzero([part is not None for part in encoding.sequence_ids])
    ids = np.array(encoding.ids, np.int32)
    return ids[: inside[0]], ids[inside[-1] + 1 :]


def around(tokenizer) -> PairTemplate:
    """As the tokenizer does with a pair of texts. Raises UserError if it does not put the first text first."""
    out = tokenizer("a", "a")
    encoding = out.encodings[0]
    parts = np.array([-1 if part is None else part for part in encoding.sequence_ids])
    one, two = np.flatnonzero(parts == 0), np.flatnonzero(parts == 1)
    if not len(one) or not len(two) or one[-1] > two[0]:
        raise UserError("the tokenizer does not put two texts one behind the other, as this task needs")
    ids = np.array(encoding.ids, np.int32)
    pieces = ids[: one[0]], ids[one[-1] + 1 : two[0]], ids[two[-1] + 1 :]
    if "token_type_ids" not in out:
        return PairTemplate(pieces, None)
    kinds = out["token_type_ids"]
    first, second = kinds[one[0]], kinds[two[0]]
    of = [kinds[0] if len(pieces[0]) else first, first, kinds[one[-1] + 1] if len(pieces[1]) else first]
    return PairTemplate(pieces, (*of, second, kinds[-1]))
