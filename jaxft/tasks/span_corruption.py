"""Span corruption: the decoder restores spans that the encoder's text lacks (T5; Raffel et al. 2020, 3.1.4)."""

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import INT, InnerFraction, Range
from jaxft.data.example import Example, Row
from jaxft.problems import raise_problems
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.decoder_targets import check_decoder, decoder_side
from jaxft.tasks.long_texts import beginnings
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import column, columns_of
from jaxft.tasks.tokens import PredictsTokens

SENTINEL = "<extra_id_{}>"
Span = Annotated[float, Range(1, INT)]  # tokens


@config
class SpanCorruption(PredictsTokens):
    """Spans with a mean length of `span` tokens, `rate` of all tokens, are replaced by one sentinel each.

    The decoder's text is each sentinel followed by its span, and the end-of-text token. The lengths of both texts
    depend on the number of tokens only. Texts are cut at config.max_len, or joined with `Chunk`; with `rate=0.15` and
    `span=3`, 568 tokens become 512 and 114, as in T5.
    """

    text: str = "text"  # column, or template
    rate: InnerFraction = 0.15  # share of the tokens that are replaced
    span: Span = 3.0  # mean length in tokens

    head = "seq2seq-lm"

    def columns(self) -> list[str]:
        return columns_of(self.text)

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        check_decoder(setting)
        if setting.tokenizer.eos_token_id is None:
            raise_problems(["the tokenizer has no end-of-text token (eos_token): set one in tokenizer_config.json"])
        sentinels_of(setting, 1)
        return self

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        texts = beginnings(column(rows, self.text), setting.tokenizer, setting.max_len)
        out = setting.tokenizer(texts, add_special_tokens=False, verbose=False)
        most = setting.max_len
        return [
            {"tokens": np.array(ids[:most], np.int32), "truncated": most is not None and len(ids) > most}
            if len(ids) > 1
            else "fewer than two tokens"
            for ids in out["input_ids"]
        ]

    def random_transform(self, example: Example, rng: np.random.Generator, setting: EncodingContext) -> Example:
        tokens = example["tokens"]
        hidden, spans = self._counts(len(tokens))
        sizes = np.stack([random_sizes(len(tokens) - hidden, spans, rng), random_sizes(hidden, spans, rng)], 1).ravel()
        runs = np.split(tokens, np.cumsum(sizes)[:-1])  # unmasked text, a span, unmasked text, ...
        marks, end = sentinels_of(setting, spans)[:, None], [setting.tokenizer.eos_token_id]
        inputs = [piece for pair in zip(runs[::2], marks, strict=True) for piece in pair]
        targets = [piece for pair in zip(marks, runs[1::2], strict=True) for piece in pair]
        decoder = decoder_side(np.concatenate([*targets, end]), setting)
        return {**decoder, "tokens": np.concatenate([*inputs, end]).astype(np.int32)}

    def transformed_length(self, length: int) -> int:
        hidden, spans = self._counts(length)
        return length - hidden + spans + 1

    def max_predictions(self, length: int) -> int | None:
        return sum(self._counts(length)) + 1

    def _counts(self, length: int) -> tuple[int, int]:
        """(tokens, number) of the spans; at least one token is before each span."""
        hidden = min(max(round(length * self.rate), 1), max(length - 1, 1))
        return hidden, max(min(round(hidden / self.span), hidden, length - hidden), 1)


def random_sizes(total: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """Sizes (pieces,) of at least 1 that add up to `total`, uniform over all such sizes."""
    cuts = np.sort(rng.choice(total - 1, pieces - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def sentinels_of(setting: EncodingContext, count: int) -> np.ndarray:
    """Token ids (count,) of the first sentinels. Raises UserError if the tokenizer has fewer."""
    names, known = [SENTINEL.format(number) for number in range(count)], setting.vocabulary
    missing = [name for name in names if name not in known]
    if missing:
        raise_problems(
            [
                f"the tokenizer has no token {missing[0]}, and a text of {count} spans needs that many: add them with "
                "config.add_tokens, or set a smaller config.max_len"
            ]
        )
    return np.array([known[name] for name in names], np.int64)
