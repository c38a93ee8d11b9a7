"""Span corruption: the decoder says what is missing in the encoder's text (T5; Raffel et al. 2020, section 3.1.4)."""

from typing import Annotated

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import INT, InnerFraction, Range
from jaxft.problems import raise_problems
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.decoder_targets import check_decoder, decoder_side
from jaxft.tasks.long_texts import beginnings
from jaxft.tasks.template import column, columns_of
from jaxft.tasks.tokens import PredictsTokens

SENTINEL = "<extra_id_{}>"
Span = Annotated[float, Range(1, INT)]  # tokens


@config
class SpanCorruption(PredictsTokens):
    """Spans of `span` tokens on average, `rate` of all, give way to a sentinel each; the decoder gives them back.

    The decoder's text is each sentinel followed by its span, and the end. How many tokens both have depends on the
    number of tokens only. Rows are cut at config.max_len, or joined with `Chunk`; with a rate of 0.15 and spans of 3,
    568 tokens become the 512 and 114 of T5.
    """

    text: str = "text"  # column, or template
    rate: InnerFraction = 0.15
    span: Span = 3.0

    head = "seq2seq-lm"

    def columns(self):
        return columns_of(self.text)

    def prepare(self, rows, setting):
        check_decoder(setting)
        if setting.tokenizer.eos_token_id is None:
            raise_problems(["the tokenizer has no end-of-text token (eos_token): set one in tokenizer_config.json"])
        sentinels_of(setting, 1)
        return self

    def encode(self, rows, setting):
        texts = beginnings(column(rows, self.text), setting.tokenizer, setting.max_len)
        out = setting.tokenizer(texts, add_special_tokens=False, verbose=False)
        most = setting.max_len
        return [
            {"tokens": np.array(ids[:most], np.int32), "cut": most is not None and len(ids) > most}
            if len(ids) > 1
            else "fewer than two tokens"
            for ids in out["input_ids"]
        ]

    def random_transform(self, example, rng, setting):
        tokens = example["tokens"]
        hidden, spans = self._counts(len(tokens))
        sizes = np.stack([parted(len(tokens) - hidden, spans, rng), parted(hidden, spans, rng)], 1).ravel()
        runs = np.split(tokens, np.cumsum(sizes)[:-1])  # text that stays, a span, text that stays, ...
        marks, end = sentinels_of(setting, spans)[:, None], [setting.tokenizer.eos_token_id]
        kept = [piece for pair in zip(runs[::2], marks, strict=True) for piece in pair]
        said = [piece for pair in zip(marks, runs[1::2], strict=True) for piece in pair]
        made = {"tokens": np.concatenate([*kept, end]).astype(np.int32)}
        return made | decoder_side(np.concatenate([*said, end]), setting)

    def transformed_length(self, length):
        hidden, spans = self._counts(length)
        return length - hidden + spans + 1

    def slots(self, length):
        return sum(self._counts(length)) + 1

    def _counts(self, length: int) -> tuple[int, int]:
        """How many tokens are hidden, in how many spans; a token or more is in front of each span."""
        hidden = min(max(round(length * self.rate), 1), max(length - 1, 1))
        return hidden, max(min(round(hidden / self.span), hidden, length - hidden), 1)


def parted(total: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """Sizes (pieces,) of 1 or more that add up to `total`, every way to do so being equally likely."""
    cuts = np.sort(rng.choice(total - 1, pieces - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def sentinels_of(setting: EncodingContext, count: int) -> np.ndarray:
    """Token numbers (count,) of the first sentinels. Raises UserError where the tokenizer has not so many."""
    names, known = [SENTINEL.format(number) for number in range(count)], setting.vocabulary
    missing = [name for name in names if name not in known]
    if missing:
        raise_problems(
            [
                f"the tokenizer has no token {missing[0]}, and a text of {count} spans needs that many: name them in "
                "config.add_tokens, or choose a smaller config.max_len"
            ]
        )
    return np.array([known[name] for name in names], np.int64)
