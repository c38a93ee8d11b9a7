"""What a task is, and what examples and batches hold.

An example (host, numpy), made by `encode`:
    tokens   int32 (n,)
    types    int32 (n,)             text types, where the tokenizer gives them
    parts    int32 (n,)             in examples of several texts that do not see each other: which one, from 0
    at       int32 (k,)             positions that the head reads; absent: it reads all n, and k is n
    decoder_tokens  int32 (k,)      what a decoder behind an encoder reads, where that is another text; `at` is absent
    targets  int32 or float32 (k,) or (k, classes)
    weights  float32 (k,)           0 where there is nothing to learn
    digests  int32 (k, 2)           of vectors of texts: 64 bits that equal texts, and no others, have in common
    bytes    int32 (k,)             of a language model: how many bytes of its text each target stands for
    cut      bool                   whether tokens were cut off; counted for the report, then dropped
    empty    bool                   whether there is nothing but special tokens; likewise
    pair_at, pair_targets, pair_weights  (1,)  for the head `pretraining`: what its scores of pairs read, and learn
    notes    dict                   numbers, by what they count; summed for the report, then dropped
    fault    (str, str)             what is wrong with the row: the kind, and the row's own; likewise
What else it has stays on the host, for `evaluate_predictions`.

jaxft/models/batch.py says what a batch holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from jaxft.inference.settings import Inference, reads
from jaxft.metrics import Mean
from jaxft.metrics.declared import Metric
from jaxft.metrics.units import EvalUnits
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.tasks.long_texts import beginnings, pair_beginnings
from jaxft.tasks.special_tokens import PairTemplate, alone, around

Example = dict[str, np.ndarray]


@dataclass
class EncodingContext:
    """What a task needs to know of the model to make examples for it."""

    tokenizer: object
    max_len: int | None  # tokens of an example, the rest is cut off; None: nothing is cut
    pool_token: str = "first"  # the token that a classifier reads
    labels: list[str] | None = None  # class names that the checkpoint brings, by number
    embedding: object = None  # models/checkpoint/sentence_transformers.py: what the directory makes of tokens' vectors
    decoder_start: int | str | None = (
        None  # the token that a decoder's text begins with; "last": the text's own last one
    )

    def truncation(self) -> dict:
        """Arguments for the tokenizer. Of a pair the longer text loses tokens first."""
        if self.max_len is None:
            return {"truncation": False, "verbose": False}
        return {"truncation": "longest_first", "max_length": self.max_len}

    @cached_property
    def around(self) -> PairTemplate:
        """What the tokenizer puts around two texts."""
        return around(self.tokenizer)

    @cached_property
    def alone(self) -> tuple[np.ndarray, np.ndarray]:
        """What it puts in front of a single text, and behind it."""
        return alone(self.tokenizer)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """The number of every token."""
        return self.tokenizer.get_vocab()

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """Every token number but the special ones."""
        return np.setdiff1d(list(self.vocabulary.values()), self.tokenizer.all_special_ids)


class Task:
    """What a model learns: how rows become examples, what is lost, and how good the answers are.

    A subclass is a `@config` object. Only `head`, `columns`, `encode`, `loss` and `metrics` have no default. What some
    tasks share is in tasks/tokens.py (a token at each slot) and tasks/vectors.py (vectors of texts).
    """

    __slots__ = ()

    head: str  # the name of the head that it trains
    labels = ()  # names of its classes, by number; None until `prepare` has filled them in
    problem_type = None  # of classification, as config.json has it
    hidden = None  # "all": its loss reads every position although it has slots; None: as `slots` says
    evaluates_texts = False  # whether `evaluate_predictions` makes the metrics, and not `compute_metrics`
    has_class_metrics = False  # whether there is `per_class_metrics`
    groups_rows = False  # whether several rows make one unit of evaluation; then there is `group_key`

    # --- on the host ---

    def columns(self) -> list[str]:
        """Columns that every source row must have; `prepare` and `encode` are given no others."""
        raise NotImplementedError

    def prepare(self, rows, setting: EncodingContext) -> "Task":
        """The task with everything settled that depends on the training rows: labels, class weights."""
        return self

    def resolved(self, setting: EncodingContext) -> "Task":
        """The task with what the model's directory settles, apart from labels, where there are no training rows."""
        return self

    def encode(self, rows: list[dict], setting: EncodingContext) -> list[Example | list[Example] | str]:
        """Source rows to an example each, or a list of them; a string instead says why the row is left out."""
        raise NotImplementedError

    def check_data(self, report: dict) -> list[str]:
        """What is too wrong with a set to go on, from what became of its rows (data/encoded.py)."""
        return []

    def random_transform(self, example: Example, rng: np.random.Generator, setting: EncodingContext) -> Example:
        """What is random at each visit of an example."""
        return example

    def transformed_length(self, length: int) -> int:
        """Number of tokens of an example of `length` tokens after `random_transform`."""
        return length

    def slots(self, length: int) -> int | None:
        """How many slots an example of `length` tokens has at most; None: as many as it has tokens once transformed.

        Asked only where `random_transform` makes `at` or `decoder_tokens`; where `encode` does, they are counted.
        """
        return None

    def target_stats(self, targets: np.ndarray) -> dict[str, float]:
        """What all targets of a set look like, name to number: how many examples each class has."""
        return {}

    def model_files(self, setting: EncodingContext, width: int) -> dict[str, str]:
        """Further files of the exported model, name to text, for hidden states of `width` numbers."""
        return {}

    def inference(self, results: dict) -> Inference:
        """Which columns the model reads and how its scores are decoded; `results` are metrics by evaluation set."""
        return reads(self)

    # --- in the compiled step ---

    def prepare_batch(self, batch: Batch) -> Batch:
        """A whole training batch before it is cut into micro-batches: settles the weights of what is learned."""
        return batch

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        """Pairs to be summed over micro-batches and devices, `loss` among them.

        `weighted_loss`, if there, is differentiated in its place (metrics/mean.py): `loss` stays comparable.
        """
        raise NotImplementedError

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """What evaluation keeps of each slot, (rows, slots, ...); {} if sums suffice.

        A slot is kept where its weight is not 0, or where `weights` is not, if the task gives them anew. Slots of an
        example follow each other.
        """
        return {}

    # --- evaluation ---

    def metrics(self) -> dict[str, Metric]:
        """What an evaluation gives, once the labels are known: which values are better (metrics/declared.py)."""
        raise NotImplementedError

    def compute_metrics(self, sums: dict[str, Mean], kept: dict[str, np.ndarray]) -> dict[str, float]:
        """Metrics of a whole set, from the summed pairs and the kept slots (slots with weight 0 removed).

        Metrics of a part of a set, and intervals, are those of some rows' kept slots, without sums.
        """
        return {}

    def evaluate_predictions(self, kept: dict[str, np.ndarray], encoded, rows) -> EvalUnits:
        """Metrics that need the texts: of the kept slots, the set's examples (data/encoded.py; `kept["index"]` has
        their numbers) and its source rows, with files of the answers in the format that benchmarks take."""
        raise NotImplementedError

    def group_key(self, rows) -> list[str]:
        """For each row a text that the rows of one unit have in common."""
        raise NotImplementedError

    def per_class_metrics(self, kept: dict[str, np.ndarray]) -> list[dict]:
        """A JSON object for each class."""
        raise NotImplementedError

    def figures(self, kept: dict[str, np.ndarray]) -> list[dict]:
        """What the report shows (reports/figures.py) of the kept slots of a whole set."""
        return []


def encode_texts(setting: EncodingContext, texts: list[str], pairs: list[str] | None) -> list[Example]:
    """Tokens, and types where the tokenizer gives them, of single texts or of pairs."""
    if pairs is None:
        texts = beginnings(texts, setting.tokenizer, setting.max_len)
    else:
        texts, pairs = pair_beginnings(texts, pairs, setting.tokenizer, setting.max_len)
    out = setting.tokenizer(texts, pairs, **setting.truncation())
    examples = [
        {
            "tokens": np.array(encoding.ids, np.int32),
            "cut": len(encoding.overflowing) > 0,
            "empty": all(encoding.special_tokens_mask),
        }
        for encoding in out.encodings
    ]
    for example, types in zip(examples, out.get("token_type_ids", []), strict=False):
        example["types"] = np.array(types, np.int32)
    return examples


def as_parts(texts: Sequence[Example], reads: str) -> Example | str:
    """Several encoded texts as one example, with a slot for each, which reads its first or its last token."""
    sizes = np.array([len(text["tokens"]) for text in texts])
    if not sizes.all():
        return "no text"
    ends = np.cumsum(sizes)
    made = {
        "tokens": np.concatenate([text["tokens"] for text in texts]),
        "parts": np.repeat(np.arange(len(texts), dtype=np.int32), sizes),
        "at": (ends - sizes if reads == "first" else ends - 1).astype(np.int32),
        "weights": np.ones(len(texts), np.float32),
        "cut": any(text["cut"] for text in texts),
        "empty": all(text["empty"] for text in texts),
    }
    return made | ({"types": np.concatenate([text["types"] for text in texts])} if "types" in texts[0] else {})


def fault_problems(report: dict, limit: float) -> list[str]:
    """For `check_data`: what to say of more than a share `limit` of the kept rows with faults."""
    faults = report.get("faults", {})
    if sum(faults.values()) <= limit * report["kept"]:
        return []
    return [
        f"{count:,} of {report['kept']:,} rows have {kind} ({'; '.join(report['shown'][kind])}): repair them, or let "
        "more of them pass with config.task.fault_limit"
        for kind, count in faults.items()
    ]
