"""Classification and regression of texts or pairs: one class, several labels, or a number."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import softmax

from jaxft.config.component import config
from jaxft.config.ranges import Fraction, NonNegative, ProperFraction
from jaxft.data.example import Example, Row
from jaxft.inference.settings import Inference, LabelDecoding, reads
from jaxft.metrics import Mean, classification_metrics, multilabel_metrics, regression_metrics
from jaxft.metrics.classes import LABELS, above, class_lines, classification_declared, label_lines
from jaxft.metrics.decisions import Decision, best_threshold, label_thresholds
from jaxft.metrics.declared import Metric, higher, lower, neither
from jaxft.metrics.probabilities import PROBABILITIES, class_probability_metrics, label_probability_metrics
from jaxft.metrics.regression import REGRESSION
from jaxft.metrics.units import EvalOutputs
from jaxft.models.batch import Batch
from jaxft.models.model import Outputs
from jaxft.problems import listed, raise_problems, suggest, truncated_repr
from jaxft.reports.figures import class_figures, label_figures, value_figures
from jaxft.tasks.base import EncodingContext, Task, logits_of
from jaxft.tasks.class_weights import balanced, balanced_positives, known_weights
from jaxft.tasks.label_sets import EMPTY, column_targets, infer_labels, set_targets
from jaxft.tasks.labelled_texts import labelled
from jaxft.tasks.labels import class_counts, class_numbers, known_labels, label_notes, numbering, numbers_of, read_all
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
    positive: str | None = None  # of two classes, the one that f1, precision, recall and auroc are of; None: the second
    # Of two classes, the positive one is predicted if its probability is above this; None: the more probable class. The
    # name of an evaluation set: the threshold with the best F1 on it, once the model is exported.
    threshold: Fraction | str | None = None

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
        raise_problems(self._binary_problems(labels))
        if len(labels) == 1:
            log.warning("all rows have the class %s: there is nothing to learn", truncated_repr(labels[0]))
        if len(labels) == 2:
            positive = labels[1] if self.positive is None else self.positive
            log.info("f1, precision and recall are of the class %s (config.task.positive)", truncated_repr(positive))
        return replace(self, labels=tuple(labels), class_weights=weights)

    def _binary_problems(self, labels: Sequence[str]) -> list[str]:
        """Why `positive` and `threshold` do not fit the classes."""
        given = {"positive": self.positive, "threshold": self.threshold}
        named = [f"task.{name}" for name, value in given.items() if value is not None]
        if named and len(labels) != 2:
            return [f"{' and '.join(named)}: for two classes, but there are {len(labels)}: {listed(labels)}"]
        if self.positive is not None and self.positive not in labels:
            near = suggest(self.positive, labels)
            return [f"task.positive is {truncated_repr(self.positive)}, but the classes are {listed(labels)}.{near}"]
        return []

    @property
    def positive_class(self) -> str | None:
        if len(self.class_names) != 2:
            return None
        return self.class_names[1] if self.positive is None else self.positive

    @property
    def tuning_set(self) -> str | None:
        return self.threshold if isinstance(self.threshold, str) else None

    @property
    def decision(self) -> Decision:
        """How a class is chosen; while a threshold is still to be tuned, the more probable one."""
        positive = self.class_names.index(self.positive) if self.positive is not None else 1
        return Decision(positive, None if isinstance(self.threshold, str) else self.threshold)

    def resolved(self, setting: EncodingContext) -> Self:
        raise_problems(self._binary_problems(self.labels or setting.labels or ()))
        return replace(self, class_weights=known_weights(self.class_weights, "class_weights"))

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
        tuned = higher("best_f1") | neither("best_f1_thresh") if self.tuning_set else {}
        return losses | classification_declared(len(self.class_names)) | tuned | PROBABILITIES

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
        positive = self.decision.positive
        metrics = classification_metrics(targets, self.decision(logits), len(self.class_names), positive)
        if self.tuning_set is not None:
            shares = softmax(logits.astype(np.float64), -1)[:, positive]
            metrics["best_f1_thresh"], metrics["best_f1"] = best_threshold(targets == positive, shares)
        return metrics | class_probability_metrics(targets, logits, positive)

    def per_class_metrics(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        return class_lines(outputs["targets"], self.decision(outputs["logits"]), self.class_names)

    def figures(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        figures = class_figures(outputs["targets"], self.decision(outputs["logits"]), self.class_names)
        if self.positive_class is not None:
            figures[0]["title"] += f"; the positive class is {self.positive_class}"
        return figures

    def target_stats(self, targets: np.ndarray) -> dict[str, float]:
        return dict(zip(self.class_names, np.bincount(targets, minlength=len(self.class_names)).tolist(), strict=True))

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        threshold = self.threshold
        if isinstance(threshold, str):
            threshold = results.get(threshold, {}).get("best_f1_thresh")
        decided = threshold is not None or self.positive is not None
        decoding = LabelDecoding(positive=self.positive_class, threshold=threshold) if decided else None
        return reads(self, self.text, self.pair, decoding=decoding)

    def tuned(self, inference: Inference) -> Self:
        found = inference.labels.threshold
        if self.tuning_set is None or found is None:
            return self
        log.info("the threshold is %.4f, tuned on %s", found, self.tuning_set)
        return replace(self, threshold=found)


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
    # A label is predicted if its probability is above this: one number for all labels, or one for each. The name of an
    # evaluation set: for each label the threshold with the best F1 on it, once the model is exported.
    thresholds: Fraction | tuple[Fraction, ...] | str = 0.5
    # One for each label: factor of the loss where the label applies, as PyTorch's BCEWithLogitsLoss has it. "balanced":
    # training rows without the label / rows with it.
    pos_weight: tuple[NonNegative, ...] | str | None = None

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
        if isinstance(self.pos_weight, str) and self.pos_weight != "balanced":
            found.append(f"pos_weight is {truncated_repr(self.pos_weight)}, expected numbers or 'balanced'")
        return found

    @property
    def tuning_set(self) -> str | None:
        return self.thresholds if isinstance(self.thresholds, str) else None

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        labels, hot, own = self.label, self.multi_hot, setting.labels
        if isinstance(labels, str):
            labels, hot = infer_labels(rows, labels, self.separator, hot, self.labels, own)
        given = {"thresholds": self.thresholds, "pos_weight": self.pos_weight}
        raise_problems(
            f"{name} has {len(numbers)} numbers for {len(labels)} labels: {listed(labels)}"
            for name, numbers in given.items()
            if isinstance(numbers, tuple) and len(numbers) != len(labels)
        )
        made = replace(self, labels=tuple(labels), multi_hot=hot)
        if self.pos_weight != "balanced":
            return made
        targets = [target for target in read_all(rows.named(), made._targets) if target is not None]
        return replace(made, pos_weight=balanced_positives(made.class_names, targets))

    def _targets(self, rows: list[Row]) -> list[np.ndarray | None]:
        """float32 (1, labels) of each row; None for a missing label."""
        if not isinstance(self.label, str):
            return column_targets(rows, self.label)
        return set_targets(rows, self.label, self.separator, self.multi_hot, self.class_names)

    def resolved(self, setting: EncodingContext) -> Self:
        return replace(self, pos_weight=known_weights(self.pos_weight, "pos_weight"))

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        targets = self._targets(rows)
        notes = [{EMPTY: 1} if target is not None and not target.any() else {} for target in targets]
        return labelled(self, rows, setting, targets, notes)

    def max_predictions(self, length: int) -> int | None:
        return 1

    def metrics(self) -> dict[str, Metric]:
        losses = lower("loss") if self.pos_weight is None else lower("loss", "weighted_loss")
        tuned = neither(*map(threshold_name, self.class_names)) | higher("best_f1_macro") if self.tuning_set else {}
        return losses | LABELS | tuned | PROBABILITIES

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Mean]:
        """Binary cross entropy, the mean over the labels; with `pos_weight`, also `weighted_loss`."""
        logits, targets, weights = logits_of(out), batch["targets"], batch["weights"]
        plain = {"loss": Mean.of(jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), -1), weights)}
        if self.pos_weight is None:
            return plain
        here = jnp.array(self.pos_weight) * targets * jax.nn.log_sigmoid(logits)
        errors = -jnp.mean(here + (1 - targets) * jax.nn.log_sigmoid(-logits), -1)
        return plain | {"weighted_loss": Mean.of(errors, weights)}

    def eval_outputs(self, out: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return {"logits": logits_of(out), "targets": batch["targets"]}

    def compute_metrics(self, sums: Mapping[str, Mean], outputs: EvalOutputs) -> dict[str, float]:
        targets, logits = outputs["targets"].astype(int), outputs["logits"]
        metrics = multilabel_metrics(targets, self._found(logits))
        if self.tuning_set is not None:
            thresholds, scores = label_thresholds(targets, logits)
            metrics["best_f1_macro"] = float(np.nan_to_num(scores).mean())
            metrics |= dict(zip(map(threshold_name, self.class_names), thresholds.tolist(), strict=True))
        return metrics | label_probability_metrics(targets, logits)

    def per_class_metrics(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        return label_lines(outputs["targets"].astype(int), self._found(outputs["logits"]), self.class_names)

    def figures(self, outputs: EvalOutputs) -> list[dict[str, Any]]:
        return label_figures(outputs["targets"].astype(int), self._found(outputs["logits"]), self.class_names)

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        found = results.get(self.tuning_set or "", {})
        names = list(map(threshold_name, self.class_names))
        if self.tuning_set is not None:
            thresholds = tuple(found[name] for name in names) if names[0] in found else ()
        else:
            thresholds = tuple(np.broadcast_to(np.array(self.thresholds, float), len(names)).tolist())
        return reads(self, self.text, self.pair, decoding=LabelDecoding(thresholds=thresholds))

    def tuned(self, inference: Inference) -> Self:
        found = inference.labels.thresholds
        if self.tuning_set is None or not found:
            return self
        log.info("the thresholds are tuned on %s: %s", self.tuning_set, listed(round(one, 4) for one in found))
        return replace(self, thresholds=found)

    def _found(self, logits: np.ndarray) -> np.ndarray:
        """The predicted labels as 0 or 1 (rows, labels); while thresholds are still to be tuned, those above 0.5."""
        return above(logits, 0.5 if isinstance(self.thresholds, str) else self.thresholds).astype(int)

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


def threshold_name(label: str) -> str:
    """The name of the metric that holds a label's tuned threshold."""
    return f"best_f1_thresh/{label}"
