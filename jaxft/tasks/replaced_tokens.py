"""Replaced-token detection: which tokens were replaced (Clark et al. 2020)."""

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config.component import config
from jaxft.config.ranges import InnerFraction
from jaxft.data.example import Example, Row
from jaxft.metrics import Mean
from jaxft.metrics.declared import Metric, higher, lower
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.tasks.base import EncodingContext, Task, logits_of
from jaxft.tasks.long_texts import beginnings
from jaxft.tasks.template import column, columns_of


@config
class ReplacedTokens(Task):
    """Predicts for every token whether it was replaced; `rate` of the non-special tokens are.

    Replacements have the frequencies of the training texts: the unigram generator of section 3.2. A replacement that
    equals the original token does not count as one. No generator model is trained.
    """

    text: str = "text"  # column, or template
    rate: InnerFraction = 0.15  # share of the tokens that are replaced

    head = "pretraining"

    def columns(self) -> list[str]:
        return columns_of(self.text)

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        texts = beginnings(column(rows, self.text), setting.tokenizer, setting.max_len)
        out = setting.tokenizer(texts, **setting.truncation())
        special = setting.tokenizer.all_special_ids
        tokens = [np.array(encoding.ids, np.int32) for encoding in out.encodings]
        ordinary = [~np.isin(ids, special) for ids in tokens]
        # Each example stores as many tokens of the other texts as it has itself, to draw replacements from.
        pool = np.concatenate([ids[mask] for ids, mask in zip(tokens, ordinary, strict=True)])
        pool = np.random.default_rng(len(pool)).permutation(pool)
        fakes = np.split(pool, np.cumsum([mask.sum() for mask in ordinary])[:-1])
        return [
            {"tokens": ids, "ordinary": mask, "fakes": some, "truncated": len(encoding.overflowing) > 0}
            if mask.any()
            else "no ordinary token"
            for ids, mask, some, encoding in zip(tokens, ordinary, fakes, out.encodings, strict=True)
        ]

    def random_transform(self, example: Example, rng: np.random.Generator, setting: EncodingContext) -> Example:
        tokens, ordinary = example["tokens"].copy(), np.flatnonzero(example["ordinary"])
        at = rng.permutation(ordinary)[: math.floor(self.rate * len(ordinary) + rng.random())]
        tokens[at] = rng.choice(example["fakes"], len(at))
        replaced = (tokens != example["tokens"]).astype(np.float32)
        return {"tokens": tokens, "targets": replaced, "weights": np.ones(len(tokens), np.float32)}

    def metrics(self) -> dict[str, Metric]:
        return lower("loss") | higher("accuracy", "precision", "recall")

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        logits, replaced, weights = logits_of(out)[..., 0], batch["targets"], batch["weights"]
        found = logits > 0
        errors = optax.sigmoid_binary_cross_entropy(logits, replaced)
        hits = (found == (replaced > 0)).astype(jnp.float32)
        return {
            "loss": Mean.of(errors, weights),
            "accuracy": Mean.of(hits, weights),
            "precision": Mean.of(hits, weights * found),
            "recall": Mean.of(hits, weights * (replaced > 0)),
        }

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        found = sums["precision"]
        return {} if found.count else {"precision": 0.0}  # if nothing is predicted as replaced, as in scikit-learn
