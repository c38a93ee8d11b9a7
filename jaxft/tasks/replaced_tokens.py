"""Replaced-token detection: which tokens are not those of the text (Clark et al. 2020)."""

import math

import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config.component import config
from jaxft.config.ranges import InnerFraction
from jaxft.metrics import Mean
from jaxft.metrics.declared import higher, lower
from jaxft.tasks.base import Task
from jaxft.tasks.long_texts import beginnings
from jaxft.tasks.template import column, columns_of


@config
class ReplacedTokens(Task):
    """Say of every token whether it was replaced, as `rate` of the ordinary ones are.

    Replacements are tokens of the training texts, as frequent as they are there: the unigram generator of section 3.2.
    One that happens to be the token itself is none. No second model is trained.
    """

    text: str = "text"  # column, or template
    rate: InnerFraction = 0.15

    head = "pretraining"

    def columns(self):
        return columns_of(self.text)

    def encode(self, rows, setting):
        texts = beginnings(column(rows, self.text), setting.tokenizer, setting.max_len)
        out = setting.tokenizer(texts, **setting.truncation())
        special = setting.tokenizer.all_special_ids
        tokens = [np.array(encoding.ids, np.int32) for encoding in out.encodings]
        ordinary = [~np.isin(ids, special) for ids in tokens]
        # Each example has as many tokens of other texts as it has itself.
        pool = np.concatenate([ids[kept] for ids, kept in zip(tokens, ordinary, strict=True)])
        pool = np.random.default_rng(len(pool)).permutation(pool)
        fakes = np.split(pool, np.cumsum([kept.sum() for kept in ordinary])[:-1])
        return [
            {"tokens": ids, "ordinary": kept, "fakes": some, "cut": len(encoding.overflowing) > 0}
            if kept.any()
            else "no ordinary token"
            for ids, kept, some, encoding in zip(tokens, ordinary, fakes, out.encodings, strict=True)
        ]

    def random_transform(self, example, rng, setting):
        tokens, ordinary = example["tokens"].copy(), np.flatnonzero(example["ordinary"])
        at = rng.permutation(ordinary)[: math.floor(self.rate * len(ordinary) + rng.random())]
        tokens[at] = rng.choice(example["fakes"], len(at))
        replaced = (tokens != example["tokens"]).astype(np.float32)
        return {"tokens": tokens, "targets": replaced, "weights": np.ones(len(tokens), np.float32)}

    def metrics(self):
        return lower("loss") | higher("accuracy", "precision", "recall")

    def loss(self, out, batch):
        logits, replaced, weights = out.logits[..., 0], batch["targets"], batch["weights"]
        found = logits > 0
        errors = optax.sigmoid_binary_cross_entropy(logits, replaced)
        hits = (found == (replaced > 0)).astype(jnp.float32)
        return {
            "loss": Mean.of(errors, weights),
            "accuracy": Mean.of(hits, weights),
            "precision": Mean.of(hits, weights * found),
            "recall": Mean.of(hits, weights * (replaced > 0)),
        }

    def compute_metrics(self, sums, kept):
        found = sums["precision"]
        return {} if found.count else {"precision": 0.0}  # where nothing was said to be replaced, as in scikit-learn
