"""Denoising: the decoder restores a text whose sentences are shuffled and whose spans are masked (BART)."""

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import INT, InnerFraction, Range
from jaxft.data.example import Example, Row
from jaxft.problems import raise_problems
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.decoder_targets import check_decoder, decoder_side
from jaxft.tasks.mlm import check_mask
from jaxft.tasks.sentences import SINGLE, encode_sentences
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import columns_of
from jaxft.tasks.tokens import PredictsTokens


@config
class Denoise(PredictsTokens):
    """Text infilling and sentence permutation (Lewis et al. 2020, section 2.2).

    Spans with Poisson-distributed lengths, `rate` of all tokens, are replaced by one mask each. A span of length 0
    inserts a mask, as long as the text does not become longer. The special tokens around the text stay.
    """

    text: str = "text"  # column or template: texts; or a column that holds lists of sentences
    rate: InnerFraction = 0.3  # share of the tokens that are masked
    span: Annotated[float, Range(0, INT, ("low",))] = 3.0  # mean length in tokens
    shuffle: bool = True  # the sentences

    head = "seq2seq-lm"

    def columns(self) -> list[str]:
        return columns_of(self.text)

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        check_decoder(setting)
        check_mask(setting)
        if setting.max_len is None:
            raise_problems(["the sentences of a text cannot be cut into chunks: use Pad or Pack for config.batching"])
        return self

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        if setting.max_len is None:
            raise ValueError("`prepare` refuses texts without a max_len")
        front, end = setting.single_template
        most = setting.max_len - len(front) - len(end)
        found: list[Example | str] = []
        for tokens, _, starts in encode_sentences(rows, self.text, setting, setting.max_len):
            whole = np.concatenate([front, tokens[:most], end])
            example: Example = {"tokens": whole, "starts": starts[starts < most], "truncated": len(tokens) > most}
            example["notes"] = {SINGLE: int(len(starts) < 2)}
            found.append(example if len(tokens) > 1 else "fewer than two tokens")
        return found

    def random_transform(self, example: Example, rng: np.random.Generator, setting: EncodingContext) -> Example:
        front, end = setting.single_template
        whole = example["tokens"]
        tokens = whole[len(front) : len(whole) - len(end)]
        if self.shuffle:
            sentences = np.split(tokens, example["starts"][1:])
            tokens = np.concatenate([sentences[i] for i in rng.permutation(len(sentences))])
        noised = self._infilled(tokens, setting.tokenizer.mask_token_id, rng)
        return {**decoder_side(whole, setting), "tokens": np.concatenate([front, noised, end]).astype(np.int32)}

    def max_predictions(self, length: int) -> int | None:
        return length

    def _infilled(self, tokens: np.ndarray, mask: int, rng: np.random.Generator) -> np.ndarray:
        """The text with masks, no two of which are adjacent."""
        count = len(tokens)
        budget = int(np.floor(self.rate * count + rng.random()))
        drawn = spans_of(budget, self.span, rng)
        sizes = drawn[drawn > 0][: count - budget + 1]
        unmasked = count - sizes.sum()
        empty = min(len(drawn[drawn == 0]), sizes.sum() - len(sizes), unmasked + 1 - len(sizes))
        sizes = rng.permutation(np.append(sizes, np.zeros(empty, int)))
        before = np.sort(rng.choice(unmasked + 1, len(sizes), replace=False))  # unmasked tokens before each mask
        stops = before + np.cumsum(sizes) - sizes
        starts = np.append(0, stops + sizes)
        runs = [tokens[start:stop] for start, stop in zip(starts, np.append(stops, count), strict=True)]
        return np.concatenate([runs[0], *(np.append(mask, run) for run in runs[1:])])


def spans_of(budget: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson-distributed sizes that add up to `budget`; the last one is cut to fit."""
    sizes: list[int] = []
    while (left := budget - sum(sizes)) > 0:
        sizes.append(min(int(rng.poisson(mean)), left))
    return np.array(sizes, int)
