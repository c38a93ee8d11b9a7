"""Pre-training on two halves of a text at once: masked words, and whether or in which order the halves belong together.

The head `pretraining` reads masked tokens at `at` and the pair at `pair_at`. The loss is the mean over masked tokens
plus the mean over pairs (Devlin et al. 2018, appendix A.2).
"""

from dataclasses import field

import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config.component import config
from jaxft.config.ranges import problems_of
from jaxft.metrics import Mean
from jaxft.metrics.declared import higher, lower
from jaxft.problems import raise_problems
from jaxft.tasks.base import EncodingContext, Task
from jaxft.tasks.mlm import MaskedLM, check_mask
from jaxft.tasks.sentences import SINGLE, encode_sentences
from jaxft.tasks.template import columns_of
from jaxft.tasks.tokens import perplexity, token_sums


@config
class NextSentence(Task):
    """Masked words, and whether the second half follows the first (Devlin et al. 2018, section 3.1).

    A text is cut between sentences into pieces of up to `config.max_len` tokens. At each visit a piece is cut in two
    between two of its sentences, and one time in two its second half gives way to as many tokens of another text
    (class 1). A piece of a single sentence is cut in its middle. For a .txt file with a sentence a line and blank lines
    between documents, set `documents=True` in its source.
    """

    text: str = "text"  # column or template: whole documents; or a column that holds lists of sentences
    masked: MaskedLM = field(default_factory=MaskedLM)  # which words are hidden

    head = "pretraining"

    def problems(self):
        return [f"masked: {problem}" for problem in problems_of(self.masked)]

    def columns(self):
        return columns_of(self.text)

    def prepare(self, rows, setting):
        check_mask(setting)
        if setting.max_len is None:
            raise_problems(["pairs of halves are no running text: use Pad or Pack for config.batching, not Chunk"])
        if room(setting) < 2:
            raise_problems([f"config.max_len {setting.max_len} leaves no room for two halves: set a larger one"])
        return self

    def encode(self, rows, setting):
        read = encode_sentences(rows, self.text, setting)
        texts = [text for text in read if len(text[0]) > 1]
        far, made = max(1, len(texts) // 2), []
        for number, (tokens, words, starts) in enumerate(texts):
            other = texts[(number + far) % len(texts)] if len(texts) > 1 else (tokens[:0], words[:0])
            cuts = list(pieces(len(tokens), starts, room(setting)))
            some = [_piece(tokens, words, starts, other, cut, setting) for cut in cuts]
            made.append([some[0] | {"notes": {SINGLE: int(len(starts) < 2)}}, *some[1:]])
        rest = iter(made)
        return [next(rest) if len(tokens) > 1 else "fewer than two tokens" for tokens, _, _ in read]

    def random_transform(self, example, rng, setting):
        first, second, label = self._halves(example, rng)
        tokens, words = setting.around.join(first[0], second[0]), setting.around.join(first[1], second[1], special=-1)
        made = self.masked.random_transform({"tokens": tokens, "words": words}, rng, setting)
        made |= setting.around.types_of(len(first[0]), len(second[0]))
        read = 0 if setting.pool_token == "first" else len(tokens) - 1
        made |= {"pair_at": np.array([read], np.int32), "pair_targets": np.array([label], np.int32)}
        return made | {"pair_weights": np.ones(1, np.float32)}

    def slots(self, length):
        return self.masked.slots(length)

    def prepare_batch(self, batch):
        """A pair counts as much as the masked tokens that there are to a pair in the whole batch."""
        scale = jnp.sum(batch["weights"]) / jnp.maximum(jnp.sum(batch["pair_weights"]), 1.0)
        return batch | {"pair_weights": batch["pair_weights"] * scale}

    def metrics(self):
        return lower("loss", "word_loss", "pair_loss", "perplexity") | higher("accuracy", "pair_accuracy")

    def loss(self, out, batch):
        words, weights = token_sums(out, batch), batch["pair_weights"]
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

    def compute_metrics(self, sums, kept):
        words, pair = sums["word_loss"], sums["pair_loss"]
        return {"loss": words.value() + pair.value()} | perplexity({"loss": words})

    def _halves(self, example, rng):
        """((tokens, words) of the first half, those of the second, class)."""
        at = int(rng.choice(example["cuts"]))
        tokens, words = example["text"], example["words"]
        first, second = (tokens[:at], words[:at]), (tokens[at:], words[at:])
        if rng.random() < 0.5 or not len(example["other"]):
            return first, second, 0
        size, others = len(tokens) - at, len(example["other"])
        start = int(rng.integers(max(1, others - size + 1)))
        return first, tuple(example[key][start : start + size] for key in ("other", "other_words")), 1


@config
class SentenceOrder(NextSentence):
    """Masked words, and whether both halves stand in their order or, one time in two (class 1), the other way round.

    Lan et al. 2020, section 3.1. Pieces and halves as of NextSentence.
    """

    def _halves(self, example, rng):
        at = int(rng.choice(example["cuts"]))
        first, second = ((example["text"][part], example["words"][part]) for part in (slice(at), slice(at, None)))
        return (first, second, 0) if rng.random() < 0.5 else (second, first, 1)


def room(setting: EncodingContext) -> int:
    """Tokens of a piece, without the special ones."""
    return setting.max_len - setting.around.count


def pieces(count: int, starts: np.ndarray, most: int):
    """(start, stop) of pieces of 2 to `most` tokens that end where a sentence does, unless one is longer than that."""
    begin = 0
    while count - begin >= 2:
        stops = [stop for stop in (*starts.tolist(), count) if begin < stop <= begin + most]
        stop = stops[-1] if stops and stops[-1] - begin >= 2 else min(begin + most, count)
        yield begin, stop
        begin = stop


def _piece(tokens, words, starts, other, cut: tuple[int, int], setting) -> dict:
    """An example: `text` and `words` of the piece, `cuts`, where it may be cut in two, and a piece of another text.

    `tokens` are as many as it will have when it is drawn. Where there is no other text, `other` is empty.
    """
    begin, stop = cut
    cuts = starts[(starts > begin) & (starts < stop)] - begin
    middle = np.array([(stop - begin) // 2], np.int32)
    text = tokens[begin:stop]
    most = room(setting)
    elsewhere = begin % max(1, len(other[0]) - most + 1)
    return {
        "tokens": setting.around.join(text, text[:0]),
        "text": text,
        "words": words[begin:stop],
        "cuts": cuts if len(cuts) else middle,
        "other": other[0][elsewhere : elsewhere + most],
        "other_words": other[1][elsewhere : elsewhere + most],
    }
