"""Pre-training on pairs of text halves: masked words, and next-sentence or sentence-order prediction.

The head `pretraining` reads masked tokens at `at`, and the sentence pair at `pair_at`. The loss is the mean over masked
tokens plus the mean over pairs (Devlin et al. 2018, appendix A.2).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Self

import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config.component import config
from jaxft.config.ranges import problems_of
from jaxft.data.example import Example, Row
from jaxft.metrics import Mean
from jaxft.metrics.declared import Metric, higher, lower
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.problems import raise_problems
from jaxft.tasks.base import EncodingContext, Task
from jaxft.tasks.mlm import MaskedLM, check_mask
from jaxft.tasks.sentences import SINGLE, encode_sentences
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import columns_of
from jaxft.tasks.tokens import perplexity, token_sums

Half = tuple[np.ndarray, np.ndarray]  # tokens, and the words that they belong to


@config
class NextSentence(Task):
    """Masked words, and whether the second half follows the first (Devlin et al. 2018, section 3.1).

    A text is cut between sentences into pieces of up to `config.max_len` tokens. At each visit a piece is cut into two
    halves between two of its sentences, or in the middle if it has one sentence; with probability 1/2 the second half
    is replaced by as many tokens of another text (class 1). For a .txt file with one sentence per line and blank lines
    between documents, set `documents=True` in its source.
    """

    text: str = "text"  # column or template: documents; or a column that holds lists of sentences
    masked: MaskedLM = field(default_factory=MaskedLM)  # how words are masked

    head = "pretraining"

    def problems(self) -> list[str]:
        return [f"masked: {problem}" for problem in problems_of(self.masked)]

    def columns(self) -> list[str]:
        return columns_of(self.text)

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        check_mask(setting)
        if setting.max_len is None:
            raise_problems(["pairs of halves cannot be cut into chunks: use Pad or Pack for config.batching"])
        if max_piece(setting) < 2:
            raise_problems([f"config.max_len {setting.max_len} is too small for two halves: set a larger one"])
        return self

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        read = encode_sentences(rows, self.text, setting)
        texts = [text for text in read if len(text[0]) > 1]
        far = max(1, len(texts) // 2)  # from a text to the one that replaces its second halves
        made: list[list[Example]] = []
        for number, (tokens, words, starts) in enumerate(texts):
            other = texts[(number + far) % len(texts)][:2] if len(texts) > 1 else (tokens[:0], words[:0])
            cuts = list(pieces(len(tokens), starts, max_piece(setting)))
            made.append([_piece(tokens, words, starts, other, cut, setting) for cut in cuts])
            made[-1][0]["notes"] = {SINGLE: int(len(starts) < 2)}
        rest = iter(made)
        return [next(rest) if len(tokens) > 1 else "fewer than two tokens" for tokens, _, _ in read]

    def random_transform(self, example: Example, rng: np.random.Generator, setting: EncodingContext) -> Example:
        first, second, label = self._halves(example, rng)
        template = setting.pair_template
        tokens, words = template.join(first[0], second[0]), template.join(first[1], second[1], special=-1)
        made = self.masked.random_transform({"tokens": tokens, "words": words}, rng, setting)
        made |= template.types_of(len(first[0]), len(second[0]))
        made["pair_at"] = np.array([0 if setting.pool_token == "first" else len(tokens) - 1], np.int32)
        made["pair_targets"] = np.array([label], np.int32)
        made["pair_weights"] = np.ones(1, np.float32)
        return made

    def max_predictions(self, length: int) -> int | None:
        return self.masked.max_predictions(length)

    def prepare_batch(self, batch: Batch) -> Batch:
        """Scales the weights of pairs so that they have the same sum as the weights of the masked tokens."""
        scale = jnp.sum(batch["weights"]) / jnp.maximum(jnp.sum(batch["pair_weights"]), 1.0)
        return batch | {"pair_weights": batch["pair_weights"] * scale}

    def metrics(self) -> dict[str, Metric]:
        return lower("loss", "word_loss", "pair_loss", "perplexity") | higher("accuracy", "pair_accuracy")

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        words, weights = token_sums(out, batch), batch["pair_weights"]
        if out.pair_logits is None:
            raise ValueError("the task needs a head with pair logits, and the model has none")
        errors = optax.softmax_cross_entropy_with_integer_labels(out.pair_logits, batch["pair_targets"])
        hits = out.pair_logits.argmax(-1) == batch["pair_targets"]
        pair = Mean.of(errors, weights)
        both = Mean(words["loss"].total + pair.total, words["loss"].count)
        right = Mean.of(hits.astype(jnp.float32), weights)
        return {
            "loss": both,
            "word_loss": words["loss"],
            "pair_loss": pair,
            "accuracy": words["accuracy"],
            "pair_accuracy": right,
        }

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        words, pair = sums["word_loss"], sums["pair_loss"]
        return {"loss": words.value() + pair.value()} | perplexity({"loss": words})

    def _halves(self, example: Example, rng: np.random.Generator) -> tuple[Half, Half, int]:
        """The first half, the second half, and the class."""
        at = int(rng.choice(example["cuts"]))
        tokens, words = example["text"], example["words"]
        first, second = (tokens[:at], words[:at]), (tokens[at:], words[at:])
        if rng.random() < 0.5 or not len(example["other"]):
            return first, second, 0
        size, others = len(tokens) - at, len(example["other"])
        start = int(rng.integers(max(1, others - size + 1)))
        return first, (example["other"][start : start + size], example["other_words"][start : start + size]), 1


@config
class SentenceOrder(NextSentence):
    """Masked words, and whether the halves are in order or, with probability 1/2, swapped (class 1).

    Lan et al. 2020, section 3.1. Pieces and halves are those of NextSentence.
    """

    def _halves(self, example: Example, rng: np.random.Generator) -> tuple[Half, Half, int]:
        at = int(rng.choice(example["cuts"]))
        tokens, words = example["text"], example["words"]
        first, second = (tokens[:at], words[:at]), (tokens[at:], words[at:])
        return (first, second, 0) if rng.random() < 0.5 else (second, first, 1)


def max_piece(setting: EncodingContext) -> int:
    """The most tokens of a piece, without special tokens."""
    if setting.max_len is None:
        raise ValueError("pieces need a max_len")
    return setting.max_len - setting.pair_template.count


def pieces(count: int, starts: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of pieces of 2 to `most` tokens that end at the end of a sentence, or inside a longer sentence."""
    begin = 0
    while count - begin >= 2:
        stops = [stop for stop in (*starts.tolist(), count) if begin < stop <= begin + most]
        stop = stops[-1] if stops and stops[-1] - begin >= 2 else min(begin + most, count)
        yield begin, stop
        begin = stop


def _piece(
    tokens: np.ndarray,
    words: np.ndarray,
    starts: np.ndarray,
    other: Half,
    cut: tuple[int, int],
    setting: EncodingContext,
) -> Example:
    """The example of the piece `cut` of a text, with tokens of another text, which may be empty.

    `tokens` has the length that the example will have after `random_transform`.
    """
    begin, stop = cut
    cuts = starts[(starts > begin) & (starts < stop)] - begin
    middle = np.array([(stop - begin) // 2], np.int32)
    text = tokens[begin:stop]
    most = max_piece(setting)
    elsewhere = begin % max(1, len(other[0]) - most + 1)
    return {
        "tokens": setting.pair_template.join(text, text[:0]),
        "text": text,
        "words": words[begin:stop],
        "cuts": cuts if len(cuts) else middle,
        "other": other[0][elsewhere : elsewhere + most],
        "other_words": other[1][elsewhere : elsewhere + most],
    }
