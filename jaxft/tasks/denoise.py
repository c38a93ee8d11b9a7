"""Denoising: the decoder gives back a text whose sentences are shuffled and whose spans are masked (BART)."""

from typing import Annotated

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import INT, InnerFraction, Range
from jaxft.problems import raise_problems
from jaxft.tasks.decoder_targets import check_decoder, decoder_side
from jaxft.tasks.mlm import check_mask
from jaxft.tasks.sentences import SINGLE, encode_sentences
from jaxft.tasks.template import columns_of
from jaxft.tasks.tokens import PredictsTokens


@config
class Denoise(PredictsTokens):
    """Text infilling and sentence permutation (Lewis et al. 2020, section 2.2).

    Spans of Poisson-distributed length, `rate` of the tokens, give way to one mask each; where the length is 0 a mask
    is put in, as long as the text does not become longer. The special tokens around a text stay.
    """

    text: str = "text"  # column or template: whole texts; or a column that holds lists of sentences
    rate: InnerFraction = 0.3
    span: Annotated[float, Range(0, INT, ("low",))] = 3.0  # tokens, on average
    shuffle: bool = True  # the sentences

    head = "seq2seq-lm"

    def columns(self):
        return columns_of(self.text)

    def prepare(self, rows, setting):
        check_decoder(setting)
        check_mask(setting)
        if setting.max_len is None:
            raise_problems(["texts with their sentences are no running text: use Pad or Pack for config.batching"])
        return self

    def encode(self, rows, setting):
        front, end = setting.alone
        most = setting.max_len - len(front) - len(end)
        found = []
        for tokens, _, starts in encode_sentences(rows, self.text, setting, setting.max_len):
            whole = np.concatenate([front, tokens[:most], end])
            example = {"tokens": whole, "starts": starts[starts < most], "cut": len(tokens) > most}
            example["notes"] = {SINGLE: int(len(starts) < 2)}
            found.append(example if len(tokens) > 1 else "fewer than two tokens")
        return found

    def random_transform(self, example, rng, setting):
        front, end = setting.alone
        whole = example["tokens"]
        tokens = whole[len(front) : len(whole) - len(end)]
        if self.shuffle:
            sentences = np.split(tokens, example["starts"][1:])
            tokens = np.concatenate([sentences[i] for i in rng.permutation(len(sentences))])
        noised = self._infilled(tokens, setting.tokenizer.mask_token_id, rng)
        return {"tokens": np.concatenate([front, noised, end]).astype(np.int32)} | decoder_side(whole, setting)

    def slots(self, length):
        return length

    def _infilled(self, tokens: np.ndarray, mask: int, rng) -> np.ndarray:
        """The text with masks; no two of them stand side by side."""
        count = len(tokens)
        budget = int(np.floor(self.rate * count + rng.random()))
        drawn = spans_of(budget, self.span, rng)
        sizes = drawn[drawn > 0][: count - budget + 1]
        kept = count - sizes.sum()
        empty = min(len(drawn[drawn == 0]), sizes.sum() - len(sizes), kept + 1 - len(sizes))
        sizes = rng.permutation(np.append(sizes, np.zeros(empty, int)))
        behind = np.sort(rng.choice(kept + 1, len(sizes), replace=False))  # so many tokens stay in front of each mask
        stops = behind + np.cumsum(sizes) - sizes
        starts = np.append(0, stops + sizes)
        runs = [tokens[start:stop] for start, stop in zip(starts, np.append(stops, count), strict=True)]
        return np.concatenate([runs[0], *(np.append(mask, run) for run in runs[1:])])


def spans_of(budget: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson-distributed sizes that add up to `budget`; the last one is as long as is left."""
    sizes: list[int] = []
    while (left := budget - sum(sizes)) > 0:
        sizes.append(min(int(rng.poisson(mean)), left))
    return np.array(sizes, int)
