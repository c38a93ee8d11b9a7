"""Classification of a text or a pair of texts: one class, several labels, or a number."""

import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config.component import config
from jaxft.config.ranges import Fraction, NonNegative, ProperFraction
from jaxft.inference.settings import LabelDecoding, reads
from jaxft.metrics import Mean, classification_metrics, multilabel_metrics, regression_metrics
from jaxft.metrics.classes import LABELS, above, class_lines, classification_declared, label_lines
from jaxft.metrics.declared import lower
from jaxft.metrics.probabilities import PROBABILITIES, class_probability_metrics, label_probability_metrics
from jaxft.metrics.regression import REGRESSION
from jaxft.problems import listed, raise_problems, truncated_repr
from jaxft.reports.figures import class_figures, label_figures, value_figures
from jaxft.tasks.base import EncodingContext, Task, encode_texts
from jaxft.tasks.label_sets import EMPTY, column_targets, set_targets, settle_labels
from jaxft.tasks.labels import class_counts, class_numbers, known_labels, numbering, numbers_of, reading
from jaxft.tasks.template import column, columns_of

log = logging.getLogger("jaxft")


@config
class Classify(Task):
    """One class per text, or per pair of texts."""

    text: str = "text"  # column, or a template of columns such as "{word}: {sentence}"
    pair: str | None = None  # of a second text
    label: str = "label"  # column: class names, or class numbers; no label (tasks/labels.py): the row is left out
    drop_empty: bool = False  # leave out rows without text; otherwise they count like all others
    labels: tuple[str, ...] | None = None  # class names by number; None: those of the training data, sorted
    class_weights: tuple[NonNegative, ...] | str | None = (
        None  # one a class, or "balanced": rows / (classes * rows of class),
    )
    # both of classes that the training data have; 0 for others
    label_smoothing: ProperFraction = 0.0  # share of the target spread evenly over all classes
    focal: NonNegative | None = None  # gamma of the focal loss (Lin et al. 2017, eq. 4)

    head = "sequence-classification"
    has_class_metrics = True
    problem_type = "single_label_classification"

    def problems(self):
        found = []
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            found.append(f"class_weights is {truncated_repr(self.class_weights)}, expected numbers or 'balanced'")
        return found

    def columns(self):
        return columns_of(self.text, self.pair, self.label)

    def prepare(self, rows, setting):
        named = self.labels or rows.classes.get(self.label) or setting.labels or ()
        counts = class_counts(rows, self.label, numbering(named))
        labels = self.labels or known_labels(rows, self.label, counts, setting.labels)
        weights = self.class_weights
        if weights == "balanced":
            weights = balanced(labels, counts)
        if weights is not None and len(weights) != len(labels):
            raise_problems([f"class_weights has {len(weights)} numbers for {len(labels)} classes: {listed(labels)}"])
        return replace(self, labels=tuple(labels), class_weights=weights)

    def encode(self, rows, setting):
        numbers = class_numbers(rows, self.label, self.labels)
        targets = [None if number is None else np.array([number], np.int32) for number in numbers]
        notes = [
            reading(row[self.label], None if number is None else self.labels[number].strip())
            for row, number in zip(rows, numbers, strict=True)
        ]
        return labelled(self, rows, setting, targets, notes)

    def slots(self, length):
        return 1

    @property
    def weighted(self) -> bool:
        """Whether training minimises another loss than the plain cross entropy."""
        return self.class_weights is not None or self.label_smoothing > 0 or self.focal is not None

    def metrics(self):
        losses = lower("loss", "weighted_loss") if self.weighted else lower("loss")
        return losses | classification_declared(len(self.labels)) | PROBABILITIES

    def loss(self, out, batch):
        """Cross entropy; where there are class weights, smoothing or focal's factor, also `weighted_loss`."""
        errors = optax.softmax_cross_entropy_with_integer_labels(out.logits, batch["targets"])
        plain = {"loss": Mean.of(errors, batch["weights"])}
        return plain | {"weighted_loss": self._weighted_loss(out, batch)} if self.weighted else plain

    def _weighted_loss(self, out, batch) -> Mean:
        targets, weights = batch["targets"], batch["weights"]
        one_hot = jax.nn.one_hot(targets, len(self.labels))
        smoothed = optax.smooth_labels(one_hot, self.label_smoothing)
        balance = jnp.array(self.class_weights or (1.0,) * len(self.labels))
        # With smoothing each share of the target has its own class's weight, as in PyTorch's cross_entropy.
        errors = -jnp.sum(balance * smoothed * jax.nn.log_softmax(out.logits), -1)
        if self.focal is not None:
            sure = jnp.sum(jax.nn.softmax(out.logits) * one_hot, -1)
            # The smallest number instead of 0, where a power below 1 has no finite derivative.
            errors = errors * jnp.maximum(1.0 - sure, jnp.finfo(jnp.float32).tiny) ** self.focal
        return Mean(Mean.of(errors, weights).total, jnp.sum(weights * balance[targets]))

    def eval_outputs(self, out, batch):
        return {"logits": out.logits, "targets": batch["targets"]}

    def compute_metrics(self, sums, kept):
        targets, logits = kept["targets"], kept["logits"]
        metrics = classification_metrics(targets, logits.argmax(-1), len(self.labels))
        return metrics | class_probability_metrics(targets, logits)

    def per_class_metrics(self, kept):
        return class_lines(kept["targets"], kept["logits"].argmax(-1), self.labels)

    def figures(self, kept):
        return class_figures(kept["targets"], kept["logits"].argmax(-1), self.labels)

    def target_stats(self, targets):
        return dict(zip(self.labels, np.bincount(targets, minlength=len(self.labels)).tolist(), strict=True))

    def inference(self, results):
        return reads(self, self.text, self.pair)


@config
class MultiLabel(Task):
    """Any number of labels per text.

    A cell holds a list of names, names joined by `separator`, or a multi-hot vector, whose labels are called by their
    numbers unless `labels` names them; in csv also what pandas writes of lists. Several columns hold 0 or 1, each for
    the label of its name. A text to which no label applies has an empty list, in csv []; an empty cell is no label.
    """

    text: str = "text"
    pair: str | None = None
    label: str | tuple[str, ...] = "labels"  # column, or columns
    drop_empty: bool = False  # as of Classify
    separator: str = "|"
    multi_hot: bool | None = None  # whether lists are multi-hot vectors; None: by the training data
    labels: tuple[str, ...] | None = None
    thresholds: Fraction | tuple[Fraction, ...] = 0.5  # a label's least probability: one for all, or for each

    head = "sequence-classification"
    has_class_metrics = True
    problem_type = "multi_label_classification"

    def columns(self):
        return columns_of(self.text, self.pair, *([self.label] if isinstance(self.label, str) else self.label))

    def problems(self):
        one = isinstance(self.label, str)
        found = [] if self.label else ["label is empty: name the column of the labels, or a column for each"]
        if not one and self.labels is not None and self.labels != self.label:
            found.append(f"labels are {listed(self.labels)}, but with a column for each they are {listed(self.label)}")
        return found

    def prepare(self, rows, setting):
        labels, hot = self.label, self.multi_hot
        if isinstance(labels, str):
            labels, hot = settle_labels(rows, labels, self.separator, hot, self.labels, setting.labels)
        if np.size(self.thresholds) not in (1, len(labels)):
            raise_problems([f"thresholds has {np.size(self.thresholds)} numbers for {len(labels)} labels"])
        return replace(self, labels=tuple(labels), multi_hot=hot)

    def encode(self, rows, setting):
        if isinstance(self.label, str):
            targets = set_targets(rows, self.label, self.separator, self.multi_hot, self.labels)
        else:
            targets = column_targets(rows, self.label)
        notes = [{EMPTY: 1} if target is not None and not target.any() else {} for target in targets]
        return labelled(self, rows, setting, targets, notes)

    def slots(self, length):
        return 1

    def metrics(self):
        return lower("loss") | LABELS | PROBABILITIES

    def loss(self, out, batch):
        errors = jnp.mean(optax.sigmoid_binary_cross_entropy(out.logits, batch["targets"]), -1)
        return {"loss": Mean.of(errors, batch["weights"])}

    def eval_outputs(self, out, batch):
        return {"logits": out.logits, "targets": batch["targets"]}

    def compute_metrics(self, sums, kept):
        targets, logits = kept["targets"].astype(int), kept["logits"]
        return multilabel_metrics(targets, self._found(logits)) | label_probability_metrics(targets, logits)

    def per_class_metrics(self, kept):
        return label_lines(kept["targets"].astype(int), self._found(kept["logits"]), self.labels)

    def figures(self, kept):
        return label_figures(kept["targets"].astype(int), self._found(kept["logits"]), self.labels)

    def inference(self, results):
        thresholds = tuple(np.broadcast_to(np.array(self.thresholds, float), len(self.labels)).tolist())
        return reads(self, self.text, self.pair, decoding=LabelDecoding(thresholds=thresholds))

    def _found(self, logits: np.ndarray) -> np.ndarray:
        """0 or 1 for each label (rows, labels)."""
        return above(logits, self.thresholds).astype(int)

    def target_stats(self, targets):
        return dict(zip(self.labels, targets.sum(0, dtype=int).tolist(), strict=True))


@config
class Regress(Task):
    """One number per text, learned by the mean squared error."""

    text: str = "text"
    pair: str | None = None
    label: str = "label"  # column of numbers; a row without one is left out
    drop_empty: bool = False  # as of Classify

    head = "sequence-classification"
    labels = ("LABEL_0",)
    problem_type = "regression"

    def columns(self):
        return columns_of(self.text, self.pair, self.label)

    def encode(self, rows, setting):
        values = numbers_of(rows, self.label)
        targets = [None if value is None else np.array([value], np.float32) for value in values]
        return labelled(self, rows, setting, targets)

    def slots(self, length):
        return 1

    def metrics(self):
        return lower("loss") | REGRESSION

    def loss(self, out, batch):
        return {"loss": Mean.of((out.logits[..., 0] - batch["targets"]) ** 2, batch["weights"])}

    def eval_outputs(self, out, batch):
        return {"logits": out.logits, "targets": batch["targets"]}

    def compute_metrics(self, sums, kept):
        return regression_metrics(kept["targets"], kept["logits"][:, 0])

    def figures(self, kept):
        return value_figures(kept["targets"], kept["logits"][:, 0])

    def target_stats(self, targets):
        return {"smallest": float(targets.min()), "mean": float(targets.mean()), "largest": float(targets.max())}

    def inference(self, results):
        return reads(self, self.text, self.pair)


def labelled(task, rows, setting: EncodingContext, targets, notes=None) -> list[dict | str]:
    """Examples with the one position that the head reads, and their `notes`; a target None is none."""
    texts = column(rows, task.text)
    examples = []
    encoded = encode_texts(setting, texts, column(rows, task.pair) if task.pair else None)
    for example, target, noted in zip(encoded, targets, notes or [{}] * len(rows), strict=True):
        if target is None:
            examples.append("no label")
        elif not len(example["tokens"]) or (task.drop_empty and example["empty"]):
            examples.append("no text")  # without any token, not even a special one, there is nothing to read
        else:
            last = len(example["tokens"]) - 1
            at = np.array([0 if setting.pool_token == "first" else last], np.int32)
            made = {"at": at, "weights": np.ones(1, np.float32), "targets": target}
            examples.append(example | made | ({"notes": noted} if noted else {}))
    return examples


def balanced(labels, counts) -> tuple[float, ...]:
    """Weights by which all classes that there are weigh the same, and a row one on average; 0 for other classes."""
    rows, known = np.zeros(len(labels)), numbering(labels)
    for name, count in counts.items():
        rows[known.get(name, 0)] += count if name in known else 0
    if absent := [name for name, count in zip(labels, rows, strict=True) if not count]:
        log.info("balanced class_weights: 0 for the classes without a training row: %s", listed(absent))
    share = rows.sum() / max(len(labels) - len(absent), 1)
    return tuple(np.divide(share, rows, out=np.zeros_like(rows), where=rows > 0).tolist())
