"""The base class of all tasks, and how texts become examples.

jaxft/data/example.py says what an example holds, jaxft/models/batch.py what a batch holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np

from jaxft.data.data_report import DataReport
from jaxft.data.encoded import Encoded
from jaxft.data.example import Example, Row
from jaxft.inference.settings import Inference, reads
from jaxft.metrics import Mean
from jaxft.metrics.declared import Metric
from jaxft.metrics.units import EvalOutputs, EvalUnits
from jaxft.models.batch import Batch
from jaxft.models.checkpoint.sentence_embedding import SentenceEmbedding
from jaxft.models.model import Outputs
from jaxft.tasks.long_texts import beginnings, pair_beginnings
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.special_tokens import PairTemplate, pair_template, single_template


@dataclass
class EncodingContext:
    """What a task needs to know of the model to make examples for it."""

    tokenizer: Any  # a fast tokenizer of transformers
    max_len: int | None  # longer examples are truncated to this many tokens; None: running text, not truncated
    pool_token: str = "first"  # the token that a classifier reads: "first" or "last"
    labels: list[str] | None = None  # the checkpoint's class names, by number
    embedding: SentenceEmbedding | None = None  # how the model directory makes a text's vector from its tokens' vectors
    decoder_start: int | str | None = None  # id of the decoder's first input token; "last": the last token of its text

    def truncation(self) -> dict[str, Any]:
        """Arguments for the tokenizer. The longer text of a pair is truncated first."""
        if self.max_len is None:
            return {"truncation": False, "verbose": False}
        return {"truncation": "longest_first", "max_length": self.max_len}

    @cached_property
    def pair_template(self) -> PairTemplate:
        """The special tokens that the tokenizer puts around two texts."""
        return pair_template(self.tokenizer)

    @cached_property
    def single_template(self) -> tuple[np.ndarray, np.ndarray]:
        """The special tokens that the tokenizer puts before and after a single text."""
        return single_template(self.tokenizer)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        return self.tokenizer.get_vocab()

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """All token ids that are not special."""
        return np.setdiff1d(list(self.vocabulary.values()), self.tokenizer.all_special_ids)


class Task:
    """What a model learns: how rows become examples, the loss, and the metrics.

    A subclass is a `@config` object. `head`, `columns`, `encode`, `loss` and `metrics` have no default. tasks/tokens.py
    has what tasks share that predict tokens, tasks/vectors.py what tasks share that learn vectors of texts.
    """

    __slots__ = ()

    head: str  # name of the head that it trains (models/heads.py)
    labels: tuple[str, ...] | None = ()  # class names by number; None until `prepare` has filled them in
    problem_type: str | None = None  # of classification, as config.json has it
    evaluates_texts = False  # whether there is `evaluate_predictions`
    has_class_metrics = False  # whether there is `per_class_metrics`
    groups_rows = False  # whether several rows make one unit of evaluation; then there is `group_key`

    @property
    def hidden(self) -> str | None:
        """Where the loss reads hidden states: "all", or "read" (at `at`); None: "read" if examples have `at`."""
        return None

    @property
    def positive_class(self) -> str | None:
        """The positive class of binary metrics such as `f1` and `recall`; None if the task has no binary metrics."""
        return None

    @property
    def tuning_set(self) -> str | None:
        """The evaluation set whose metrics decide a setting of `inference`, such as a threshold."""
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """`labels`, once they are known."""
        if self.labels is None:
            raise ValueError("the labels of a task are known only after `prepare`")
        return self.labels

    # --- on the host ---

    def columns(self) -> list[str]:
        """Columns that every source row must have; `prepare` and `encode` get only these."""
        raise NotImplementedError

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        """The task with all settings that depend on the training rows, such as labels and class weights."""
        return self

    def resolved(self, setting: EncodingContext) -> Self:
        """The task with the settings of the model directory, labels excepted; used where there are no training rows."""
        return self

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        """For each row an example, a list of examples (windows), or the reason, as text, why the row is left out."""
        raise NotImplementedError

    def check_data(self, report: DataReport) -> list[str]:
        """Problems of a set that stop the run."""
        return []

    def random_transform(self, example: Example, rng: np.random.Generator, setting: EncodingContext) -> Example:
        """The random part of making an example, such as masking, applied at each visit."""
        return example

    def transformed_length(self, length: int) -> int:
        """Tokens that an example of `length` tokens has after `random_transform`."""
        return length

    def max_predictions(self, length: int) -> int | None:
        """The most predictions (positions that the head reads) of an example with `length` tokens; None: all tokens.

        Used if `random_transform` makes `at` or `decoder_tokens`; if `encode` makes them, they are counted.
        """
        return None

    def target_stats(self, targets: np.ndarray) -> dict[str, float]:
        """Statistics of all targets of a set for the report, such as the number of examples of each class."""
        return {}

    def model_files(self, setting: EncodingContext, width: int) -> dict[str, str]:
        """Further files of the exported model, name to text, for hidden states of `width` numbers."""
        return {}

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        """The columns that the model reads and how its scores are decoded; `results` are metrics by evaluation set."""
        return reads(self)

    def tuned(self, inference: Inference) -> Self:
        """The task with what an evaluation set decided, as `inference` or the model's jaxft.json has it."""
        return self

    # --- in the compiled step ---

    def prepare_batch(self, batch: Batch) -> Batch:
        """A training batch before it is split into micro-batches, with weights that depend on all of it."""
        return batch

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        """(total, count) pairs that are summed over micro-batches and devices; one of them is `loss`.

        If there is a `weighted_loss`, it is differentiated instead (metrics/mean.py), and `loss` stays comparable.
        """
        raise NotImplementedError

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """What evaluation stores of each prediction, (rows, predictions, ...); {} if the sums of `loss` suffice.

        Predictions with weight 0 are dropped: by `weights` of the result if it is there, else by the batch's. The
        predictions of an example are consecutive.
        """
        return {}

    # --- evaluation ---

    def metrics(self) -> dict[str, Metric]:
        """The metrics of an evaluation, once labels are known, and which values are better (metrics/declared.py)."""
        raise NotImplementedError

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        """Metrics of a set, from the summed pairs of `loss` and the outputs of all predictions.

        For metrics of a part of the set, and for intervals, the outputs are those of some rows, and there are no sums.
        """
        return {}

    def evaluate_predictions(self, outputs: EvalOutputs, encoded: Encoded, rows: SourceRows) -> EvalUnits:
        """Metrics that need the texts, and files of the answers in the format that benchmarks take.

        `encoded` are the set's examples (`outputs["index"]` has their numbers) and `rows` its source rows.
        """
        raise NotImplementedError

    def group_key(self, rows: SourceRows) -> list[str]:
        """For each row a text that is equal for the rows of one unit."""
        raise NotImplementedError

    def per_class_metrics(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        """A JSON object for each class."""
        raise NotImplementedError

    def figures(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        """Figures for the report (reports/figures.py), from the outputs of a set."""
        return []


def logits_of(out: Outputs) -> jax.Array:
    """The logits of a model that has a head."""
    logits = out.logits
    if logits is None:
        raise ValueError("the task needs the logits of a head, and the model has none")
    return logits


def encode_texts(setting: EncodingContext, texts: list[str], pairs: list[str] | None) -> list[Example]:
    """Examples of single texts or of pairs, with `tokens`, and `types` if the tokenizer gives them."""
    if pairs is None:
        texts = beginnings(texts, setting.tokenizer, setting.max_len)
    else:
        texts, pairs = pair_beginnings(texts, pairs, setting.tokenizer, setting.max_len)
    out = setting.tokenizer(texts, pairs, **setting.truncation())
    examples: list[Example] = [
        {
            "tokens": np.array(encoding.ids, np.int32),
            "truncated": len(encoding.overflowing) > 0,
            "empty": all(encoding.special_tokens_mask),
        }
        for encoding in out.encodings
    ]
    for example, types in zip(examples, out.get("token_type_ids", []), strict=False):
        example["types"] = np.array(types, np.int32)
    return examples


def join_sub_texts(texts: Sequence[Example], pool_token: str) -> Example | str:
    """Several encoded texts as one example with a prediction for each, at its first or last token."""
    sizes = np.array([len(text["tokens"]) for text in texts])
    if not sizes.all():
        return "no text"
    ends = np.cumsum(sizes)
    made: Example = {
        "tokens": np.concatenate([text["tokens"] for text in texts]),
        "sub_texts": np.repeat(np.arange(len(texts), dtype=np.int32), sizes),
        "at": (ends - sizes if pool_token == "first" else ends - 1).astype(np.int32),
        "weights": np.ones(len(texts), np.float32),
        "truncated": any(text["truncated"] for text in texts),
        "empty": all(text["empty"] for text in texts),
    }
    if "types" in texts[0]:
        made["types"] = np.concatenate([text["types"] for text in texts])
    return made
