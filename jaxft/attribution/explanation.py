"""The result of `jaxft.explain`, and its file of numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.host.output_file import atomic_write
from jaxft.host.strict_json import dumps


@dataclass(frozen=True)
class Explanation:
    """Attributions of a score to the tokens of a text."""

    method: str
    texts: tuple[str, ...]  # in the order in which the model reads them
    tokens: list[str]
    text_ids: list[int | None]  # index into `texts` of each token; None: special tokens
    spans: list[tuple[int, int]]  # start and end of each token in its text, in characters
    unknown: list[bool]  # whether a token is the tokenizer's unknown token
    attributions: np.ndarray  # float64 (tokens,)
    target: str  # the class, token or answer whose score is explained
    predicted: str  # the model's prediction
    score: float  # the explained logit, or the sum of two
    baseline: str | None  # the baseline token, if the method has one
    baseline_score: float | None  # the score of the text with all tokens but the special ones replaced by it
    steps: int | None  # points of the quadrature between baseline and text

    @property
    def gap(self) -> float | None:
        """`difference` minus the sum of the attributions; None for methods without completeness (Sundararajan et al.
        2017, section 3)."""
        return None if self.difference is None else self.difference - float(self.attributions.sum())

    @property
    def difference(self) -> float | None:
        """The score minus that of the baseline, if the method has the latter."""
        return None if self.baseline_score is None else self.score - self.baseline_score

    def numbers(self) -> dict[str, Any]:
        """The explanation as a JSON value."""
        tokens = [
            {"token": token, "text": text, "start": start, "end": end, "unknown": unknown, "attribution": float(value)}
            for token, text, (start, end), unknown, value in zip(
                self.tokens, self.text_ids, self.spans, self.unknown, self.attributions, strict=True
            )
        ]
        names = ("method", "target", "predicted", "score", "baseline", "baseline_score", "gap")
        return {name: getattr(self, name) for name in names} | {"tokens": tokens}


def write_numbers(file: str, explanations: list[Explanation]) -> None:
    """Writes one JSON line per explanation; replaces `file` atomically."""
    with atomic_write(file) as partial, open(partial, "w", encoding="utf-8") as stream:
        for one in explanations:
            stream.write(dumps(one.numbers(), ensure_ascii=False) + "\n")
