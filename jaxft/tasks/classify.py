"""Classification and regression of texts or pairs: one class, several labels, or a number."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config.component import config
from jaxft.config.ranges import Fraction, NonNegative, ProperFraction
from jaxft.data.example import Example, Row
from jaxft.inference.settings import Inference, LabelDecoding, reads
from jaxft.metrics import Mean, classification_metrics, multilabel_metrics, regression_metrics
from jaxft.metrics.classes import LABELS, above, class_lines, classification_declared, label_lines
from jaxft.metrics.declared import Metric, lower
from jaxft.metrics.probabilities import PROBABILITIES, class_probability_metrics, label_probability_metrics
from jaxft.metrics.regression import REGRESSION
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.problems import listed, raise_problems, truncated_repr
from jaxft.reports.figures import class_figures, label_figures, value_figures
from jaxft.tasks.base import EncodingContext, Task, logits_of
from jaxft.tasks.label_sets import EMPTY, column_targets, infer_labels, set_targets
from jaxft.tasks.labelled_texts import labelled
from jaxft.tasks.labels import class_counts, class_numbers, known_labels, label_notes, numbering, numbers_of
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import columns_of

log = logging.getLogger("jaxft")


@config
class Classify(Task):
    """One class per text, or per pair of texts. For columns of 0 and 1, one for each label, use MultiLabel."""

    text: str = "text"  # column, or a template of columns such as "{word}: {sentence}"
    pair: str | None = None  # of a second text
    label: str = "label"  # column: class names or numbers; rows without a label (tasks/labels.py) are left out
    drop_empty: bool = False  # leave out rows without text; otherwise they are used like all others
    labels: tuple[str, ...] | None = None  # class names by number; None: those of the training data, sorted
    # One per class, or "balanced": rows / (classes * rows of the class) over the classes of the training data, else 0.
    class_weights: tuple[NonNegative, ...] | str | None = None
    label_smoothing: ProperFraction = 0.0  # share of the target spread evenly over all classes
    focal: NonNegative | None = None  # gamma of the focal loss (Lin et al. 2017, eq. 4)

    head = "sequence-classification"
    has_class_metrics = True
    problem_type = "single_label_classification"

    def problems(self) -> list[str]:
        found: list[str] = []
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            found.append(f"class_weights is {truncated_repr(self.class_weights)}, expected numbers or 'balanced'")
        return found

    def columns(self) -> list[str]:
        return columns_of(self.text, self.pair, self.label)

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        named = self.labels or rows.classes.get(self.label) or setting.labels or ()
        counts = class_counts(rows, self.label, numbering(named))
        labels = self.labels or known_labels(rows, self.label, counts, setting.labels)
        weights = balanced(labels, counts) if isinstance(self.class_weights, str) else self.class_weights
        if weights is not None and len(weights) != len(labels):
            raise_problems([f"class_weights has {len(weights)} numbers for {len(labels)} classes: {listed(labels)}"])
        return replace(self, labels=tuple(labels), class_weights=weights)

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        numbers = class_numbers(rows, self.label, self.class_names)
        targets = [None if number is None else np.array([number], np.int32) for number in numbers]
        notes = [
            label_notes(row[self.label], None if number is None else self.class_names[number].strip())
            for row, number in zip(rows, numbers, strict=True)
        ]
        return labelled(self, rows, setting, targets, notes)

    def max_predictions(self, length: int) -> int | None:
        return 1

    @property
    def weighted(self) -> bool:
        """Whether training minimises a `weighted_loss` instead of the plain cross entropy."""
        return self.class_weights is not None or self.label_smoothing > 0 or self.focal is not None

    def metrics(self) -> dict[str, Metric]:
        losses = lower("loss", "weighted_loss") if self.weighted else lower("loss")
        return losses | classification_declared(len(self.class_names)) | PROBABILITIES

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        """Cross entropy; with class weights, label smoothing or a focal factor, also `weighted_loss`."""
        errors = optax.softmax_cross_entropy_with_integer_labels(logits_of(out), batch["targets"])
        plain = {"loss": Mean.of(errors, batch["weights"])}
        return plain | {"weighted_loss": self._weighted_loss(out, batch)} if self.weighted else plain

    def _weighted_loss(self, out: Outputs, batch: Batch) -> Mean:
        targets, weights, classes = batch["targets"], batch["weights"], len(self.class_names)
        one_hot = jax.nn.one_hot(targets, classes)
        smoothed = optax.smooth_labels(one_hot, self.label_smoothing)
        class_weights = jnp.array(self.class_weights or (1.0,) * classes)
        # With smoothing, each class's share of the target has that class's weight, as in PyTorch's cross_entropy.
        errors = -jnp.sum(class_weights * smoothed * jax.nn.log_softmax(logits_of(out)), -1)
        if self.focal is not None:
            probability = jnp.sum(jax.nn.softmax(logits_of(out)) * one_hot, -1)
            # The smallest number instead of 0, at which a power below 1 has no finite derivative.
            errors = errors * jnp.maximum(1.0 - probability, jnp.finfo(jnp.float32).tiny) ** self.focal
        return Mean(Mean.of(errors, weights).total, jnp.sum(weights * class_weights[targets]))

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return {"logits": logits_of(out), "targets": batch["targets"]}

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        targets, logits = outputs["targets"], outputs["logits"]
        metrics = classification_metrics(targets, logits.argmax(-1), len(self.class_names))
        return metrics | class_probability_metrics(targets, logits)

    def per_class_metrics(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        return class_lines(outputs["targets"], outputs["logits"].argmax(-1), self.class_names)

    def figures(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        return class_figures(outputs["targets"], outputs["logits"].argmax(-1), self.class_names)

    def target_stats(self, targets: np.ndarray) -> dict[str, float]:
        return dict(zip(self.class_names, np.bincount(targets, minlength=len(self.class_names)).tolist(), strict=True))

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        return reads(self, self.text, self.pair)


@config
class MultiLabel(Task):
    """Any number of labels per text.

    A cell holds a list of names, names joined by `separator`, or a multi-hot vector, whose labels are numbers unless
    `labels` names them; in csv also lists as pandas writes them. If `label` names several columns, each holds 0 or 1
    for the label of its name. A text to which no label applies has an empty list ([] in csv); an empty cell is a
    missing label.
    """

    text: str = "text"  # column, or template
    pair: str | None = None  # of a second text
    label: str | tuple[str, ...] = "labels"  # column, or columns
    drop_empty: bool = False  # as in Classify
    separator: str = "|"  # between the names in a cell
    multi_hot: bool | None = None  # whether lists are multi-hot vectors; None: by the training data
    labels: tuple[str, ...] | None = None
    thresholds: Fraction | tuple[Fraction, ...] = (
        0.5  # the least probability of a label: one number for all labels, or one for each
    )

    head = "sequence-classification"
    has_class_metrics = True
    problem_type = "multi_label_classification"

    def columns(self) -> list[str]:
        return columns_of(self.text, self.pair, *([self.label] if isinstance(self.label, str) else self.label))

    def problems(self) -> list[str]:
        one = isinstance(self.label, str)
        found = [] if self.label else ["label is empty: name the column of the labels, or a column for each"]
        if not one and self.labels is not None and self.labels != self.label:
            found.append(f"labels are {listed(self.labels)}, but with a column for each they are {listed(self.label)}")
        return found

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        labels, hot, own = self.label, self.multi_hot, setting.labels
        if isinstance(labels, str):
            labels, hot = infer_labels(rows, labels, self.separator, hot, self.labels, own)
        if np.size(self.thresholds) not in (1, len(labels)):
            raise_problems([f"thresholds has {np.size(self.thresholds)} numbers for {len(labels)} labels"])
        return replace(self, labels=tuple(labels), multi_hot=hot)

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        if isinstance(self.label, str):
            targets = set_targets(rows, self.label, self.separator, self.multi_hot, self.class_names)
        else:
            targets = column_targets(rows, self.label)
        notes = [{EMPTY: 1} if target is not None and not target.any() else {} for target in targets]
        return labelled(self, rows, setting, targets, notes)

    def max_predictions(self, length: int) -> int | None:
        return 1

    def metrics(self) -> dict[str, Metric]:
        return lower("loss") | LABELS | PROBABILITIES

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        errors = jnp.mean(optax.sigmoid_binary_cross_entropy(logits_of(out), batch["targets"]), -1)
        return {"loss": Mean.of(errors, batch["weights"])}

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return {"logits": logits_of(out), "targets": batch["targets"]}

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        targets, logits = outputs["targets"].astype(int), outputs["logits"]
        return multilabel_metrics(targets, self._found(logits)) | label_probability_metrics(targets, logits)

    def per_class_metrics(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        return label_lines(outputs["targets"].astype(int), self._found(outputs["logits"]), self.class_names)

    def figures(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        return label_figures(outputs["targets"].astype(int), self._found(outputs["logits"]), self.class_names)

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        thresholds = tuple(np.broadcast_to(np.array(self.thresholds, float), len(self.class_names)).tolist())
        return reads(self, self.text, self.pair, decoding=LabelDecoding(thresholds=thresholds))

    def _found(self, logits: np.ndarray) -> np.ndarray:
        """The predicted labels as 0 or 1 (rows, labels)."""
        return above(logits, self.thresholds).astype(int)

    def target_stats(self, targets: np.ndarray) -> dict[str, float]:
        return dict(zip(self.class_names, targets.sum(0, dtype=int).tolist(), strict=True))


@config
class Regress(Task):
    """One number per text, learned by the mean squared error."""

    text: str = "text"  # column, or template
    pair: str | None = None  # of a second text
    label: str = "label"  # column of numbers; rows without one are left out
    drop_empty: bool = False  # as in Classify

    head = "sequence-classification"
    labels = ("LABEL_0",)
    problem_type = "regression"

    def columns(self) -> list[str]:
        return columns_of(self.text, self.pair, self.label)

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        values = numbers_of(rows, self.label)
        targets = [None if value is None else np.array([value], np.float32) for value in values]
        return labelled(self, rows, setting, targets)

    def max_predictions(self, length: int) -> int | None:
        return 1

    def metrics(self) -> dict[str, Metric]:
        return lower("loss") | REGRESSION

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        return {"loss": Mean.of((logits_of(out)[..., 0] - batch["targets"]) ** 2, batch["weights"])}

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return {"logits": logits_of(out), "targets": batch["targets"]}

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        return regression_metrics(outputs["targets"], outputs["logits"][:, 0])

    def figures(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        return value_figures(outputs["targets"], outputs["logits"][:, 0])

    def target_stats(self, targets: np.ndarray) -> dict[str, float]:
        return {"smallest": float(targets.min()), "mean": float(targets.mean()), "largest": float(targets.max())}

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        return reads(self, self.text, self.pair)


def balanced(labels: Sequence[str], counts: Mapping[str, int]) -> tuple[float, ...]:
    """Class weights that give all classes with rows the same total weight, with a mean of 1 per row; 0 for others."""
    rows, known = np.zeros(len(labels)), numbering(labels)
    for name, count in counts.items():
        rows[known.get(name, 0)] += count if name in known else 0
    if absent := [name for name, count in zip(labels, rows, strict=True) if not count]:
        log.info("balanced class_weights are 0 for the classes without a training row: %s", listed(absent))
    share = rows.sum() / max(len(labels) - len(absent), 1)
    return tuple(np.divide(share, rows, out=np.zeros_like(rows), where=rows > 0).tolist())
