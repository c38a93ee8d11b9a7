"""Causal language modelling: predict each token from those before it."""

import math

import jax.numpy as jnp
import numpy as np

from jaxft.config.component import config
from jaxft.metrics import Mean
from jaxft.metrics.declared import lower
from jaxft.problems import raise_problems
from jaxft.tasks.long_texts import beginnings
from jaxft.tasks.template import column, columns_of
from jaxft.tasks.tokens import TOKENS, PredictsTokens, token_sums


@config
class CausalLM(PredictsTokens):
    """Next-token prediction over whole texts, each ended by exactly one end-of-text token unless it was cut off.

    The tokenizer's own begin-of-text token stands where the tokenizer puts it, once. A text of fewer than two tokens
    has nothing to predict and is left out.

    Metrics: `perplexity` of tokens, and `bits_per_byte` of UTF-8, which does not depend on how the text is cut into
    tokens; the loss of the ends of texts is part of it, the bytes of each text's first token are not.
    """

    text: str = "text"  # column, or template

    head = "causal-lm"

    def columns(self):
        return columns_of(self.text)

    def prepare(self, rows, setting):
        if setting.tokenizer.eos_token_id is None:
            raise_problems(["the tokenizer has no end-of-text token (eos_token): set one in tokenizer_config.json"])
        return self

    def encode(self, rows, setting):
        texts = beginnings(column(rows, self.text), setting.tokenizer, setting.max_len)
        out = setting.tokenizer(texts, verbose=False)
        return [self._example(*one, setting) for one in zip(texts, out.encodings, strict=True)]

    def random_transform(self, example, rng, setting):
        tokens = example["tokens"]
        weights = np.ones(len(tokens), np.float32)
        weights[-1] = 0.0  # nothing follows the last token
        following = {name: np.append(example[key][1:], 0) for name, key in (("targets", "tokens"), ("bytes", "sizes"))}
        return {"tokens": tokens, "weights": weights, **following}

    def slots(self, length):
        return None

    def metrics(self):
        return TOKENS | lower("bits_per_byte")

    def loss(self, out, batch):
        sums = token_sums(out, batch)
        size = jnp.sum(batch["bytes"] * batch["weights"])
        return sums | {"bits_per_byte": Mean(sums["loss"].total / math.log(2), size)}

    def _example(self, text: str, encoding, setting) -> dict | str:
        bos, eos, longest = setting.tokenizer.bos_token_id, setting.tokenizer.eos_token_id, setting.max_len
        ids, sizes = encoding.ids, sizes_of(text, encoding.offsets)
        if ids[:2] == [bos, bos]:  # the text brought its own
            ids, sizes = ids[1:], sizes[1:]
        if ids[-1:] != [eos]:
            ids, sizes = [*ids, eos], np.append(sizes, 0)
        kept = {"tokens": np.array(ids[:longest], np.int32), "sizes": sizes[:longest].astype(np.int32)}
        kept["cut"] = longest is not None and len(ids) > longest
        return kept if len(kept["tokens"]) > 1 else "fewer than two tokens"


def sizes_of(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """How many bytes of UTF-8 each token stands for, with what no token covers in front of it; int (tokens,).

    `offsets` are characters. Of several tokens of one character the first has all of its bytes.
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    ends = np.maximum.accumulate(np.array([end for _, end in offsets], int))
    return np.diff(np.append(0, np.cumsum(widths))[ends], prepend=0)
