"""Causal language modelling: predict each token from those before it."""

import math
from collections.abc import Sequence
from typing import Any, Self

import jax.numpy as jnp
import numpy as np

from jaxft.config.component import config
from jaxft.data.example import Example, Row
from jaxft.metrics import Mean
from jaxft.metrics.declared import Metric, lower
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.problems import raise_problems
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.long_texts import beginnings
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import column, columns_of
from jaxft.tasks.tokens import TOKENS, PredictsTokens, token_sums


@config
class CausalLM(PredictsTokens):
    """Next-token prediction. Each text ends with exactly one end-of-text token, unless it was cut off.

    If the tokenizer adds a begin-of-text token, a text has it once. Texts of fewer than two tokens are left out.

    Metrics: `perplexity` per token, and `bits_per_byte` of UTF-8, which does not depend on the tokenization. The latter
    includes the loss of end-of-text tokens, and excludes the bytes of each text's first token.
    """

    text: str = "text"  # column, or template

    head = "causal-lm"

    def columns(self) -> list[str]:
        return columns_of(self.text)

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        if setting.tokenizer.eos_token_id is None:
            raise_problems(["the tokenizer has no end-of-text token (eos_token): set one in tokenizer_config.json"])
        return self

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        texts = beginnings(column(rows, self.text), setting.tokenizer, setting.max_len)
        out = setting.tokenizer(texts, verbose=False)
        return [self._example(*one, setting) for one in zip(texts, out.encodings, strict=True)]

    def random_transform(self, example: Example, rng: np.random.Generator, setting: EncodingContext) -> Example:
        tokens = example["tokens"]
        weights = np.ones(len(tokens), np.float32)
        weights[-1] = 0.0  # the last token has no target
        targets, sizes = (np.append(values[1:], 0) for values in (tokens, example["sizes"]))
        return {"tokens": tokens, "weights": weights, "targets": targets, "bytes": sizes}

    def max_predictions(self, length: int) -> int | None:
        return None

    def metrics(self) -> dict[str, Metric]:
        return TOKENS | lower("bits_per_byte")

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        sums = token_sums(out, batch)
        size = jnp.sum(batch["bytes"] * batch["weights"])
        return sums | {"bits_per_byte": Mean(sums["loss"].total / math.log(2), size)}

    def _example(self, text: str, encoding: Any, setting: EncodingContext) -> Example | str:
        bos, eos, longest = setting.tokenizer.bos_token_id, setting.tokenizer.eos_token_id, setting.max_len
        ids, sizes = encoding.ids, sizes_of(text, encoding.offsets)
        if ids[:2] == [bos, bos]:  # the text had one already
            ids, sizes = ids[1:], sizes[1:]
        if ids[-1:] != [eos]:
            ids, sizes = [*ids, eos], np.append(sizes, 0)
        example: Example = {"tokens": np.array(ids[:longest], np.int32), "sizes": sizes[:longest].astype(np.int32)}
        example["truncated"] = longest is not None and len(ids) > longest
        return example if len(example["tokens"]) > 1 else "fewer than two tokens"


def sizes_of(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Bytes of UTF-8 that each token stands for, int (tokens,), including uncovered text before it.

    `offsets` are in characters. If a character has several tokens, the first one gets all of its bytes.
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    ends = np.maximum.accumulate(np.array([end for _, end in offsets], int))
    return np.diff(np.append(0, np.cumsum(widths))[ends], prepend=0)
