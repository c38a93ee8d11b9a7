"""Causal language modelling: predict each token from those before it."""

import numpy as np

from jaxft.configurable import config
from jaxft.problems import raise_problems
from jaxft.tasks.template import column, columns_of
from jaxft.tasks.tokens import perplexity, token_sums


@config
class CausalLM:
    """Next-token prediction over whole texts, each ended by exactly one end-of-text token unless it was cut off.

    The tokenizer's own begin-of-text token stands where the tokenizer puts it, once. A text of fewer than two tokens
    has nothing to predict and is left out.
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
        bos, eos, longest = setting.tokenizer.bos_token_id, setting.tokenizer.eos_token_id, setting.max_len
        examples = []
        for ids in setting.tokenizer(column(rows, self.text), verbose=False)["input_ids"]:
            ids = ids[1:] if ids[:2] == [bos, bos] else ids  # the text brought its own
            ids = ids if ids[-1:] == [eos] else [*ids, eos]
            kept = {"tokens": np.array(ids[:longest], np.int32), "cut": longest is not None and len(ids) > longest}
            examples.append(kept if len(kept["tokens"]) > 1 else "fewer than two tokens")
        return examples

    def draw(self, example, rng, setting):
        tokens = example["tokens"]
        weights = np.ones(len(tokens), np.float32)
        weights[-1] = 0.0  # nothing follows the last token
        return {"tokens": tokens, "targets": np.append(tokens[1:], tokens[-1:]), "weights": weights}

    def slots(self, length):
        return None

    def loss(self, out, batch):
        return token_sums(out, batch)

    def collect(self, out, batch):
        return {}

    def summarise(self, sums, kept):
        return perplexity(sums)
