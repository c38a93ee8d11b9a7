"""Classification of a text or a pair of texts: one class, several labels, or a number."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.configurable import config
from jaxft.metrics import Mean, classification_metrics, multilabel_metrics, regression_metrics
from jaxft.metrics.classes import class_lines, label_lines
from jaxft.metrics.probabilities import class_probability_metrics, label_probability_metrics
from jaxft.pictures import class_figures, label_figures, value_figures
from jaxft.problems import SHOWN, raise_problems, shown
from jaxft.tasks.base import Setting, encode_texts
from jaxft.tasks.labels import checked, finite_number, known_labels, unknown_labels
from jaxft.tasks.template import column, columns_of, text_of


@config
class Classify:
    """One class per text, or per pair of texts."""

    text: str = "text"  # column, or a template of columns such as "{word}: {sentence}"
    pair: str | None = None  # of a second text
    label: str = "label"  # column: class names, or class numbers
    drop_empty: bool = False  # leave out rows without text; otherwise they count like all others
    labels: tuple[str, ...] | None = None  # class names by number; None: those of the training data, sorted
    class_weights: tuple[float, ...] | str | None = None  # one a class, or "balanced": rows / (classes * rows of class)
    label_smoothing: float = 0.0  # share of the target spread evenly over all classes
    focal: float | None = None  # gamma of the focal loss (Lin et al. 2017, eq. 4)

    head = "sequence-classification"
    problem_type = "single_label_classification"

    def problems(self):
        found = []
        if not 0 <= self.label_smoothing < 1:
            found.append(f"label_smoothing is {self.label_smoothing}, expected 0 or more and less than 1")
        if self.focal is not None and self.focal < 0:
            found.append(f"focal is {self.focal}, expected 0 or more")
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            found.append(f"class_weights is {self.class_weights!r}, expected numbers or 'balanced'")
        return found

    def columns(self):
        return columns_of(self.text, self.pair, self.label)

    def prepare(self, rows, setting):
        values = labels_of(rows, self.label)
        labels = self.labels or known_labels(rows, self.label, values, setting.labels)
        weights = self.class_weights
        if weights == "balanced":
            counts = np.array([values.count(name) for name in labels])
            weights = tuple((len(values) / (len(labels) * np.maximum(counts, 1))).tolist())
        if weights is not None and len(weights) != len(labels):
            raise_problems([f"class_weights has {len(weights)} numbers for {len(labels)} classes: {', '.join(labels)}"])
        return replace(self, labels=tuple(labels), class_weights=weights)

    def encode(self, rows, setting):
        numbers = {name: number for number, name in enumerate(self.labels)}
        names = _names(rows, self.label)
        raise_problems(unknown_labels(names, numbers))
        targets = [None if name is None else np.array([numbers[name]], np.int32) for name in names]
        return labelled(self, rows, setting, targets)

    def draw(self, example, rng, setting):
        return example

    def slots(self, length):
        return 1

    def loss(self, out, batch):
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
        return {"loss": Mean(Mean.of(errors, weights).total, jnp.sum(weights * balance[targets]))}

    def collect(self, out, batch):
        return {"logits": out.logits, "targets": batch["targets"]}

    def summarise(self, sums, kept):
        targets, logits = kept["targets"], kept["logits"]
        metrics = classification_metrics(targets, logits.argmax(-1), len(self.labels))
        return metrics | class_probability_metrics(targets, logits)

    def by_class(self, kept):
        return class_lines(kept["targets"], kept["logits"].argmax(-1), self.labels)

    def picture(self, kept):
        return class_figures(kept["targets"], kept["logits"].argmax(-1), self.labels)

    def tally(self, targets):
        return dict(zip(self.labels, np.bincount(targets, minlength=len(self.labels)).tolist(), strict=True))


@config
class MultiLabel:
    """Any number of labels per text. The column holds lists of names, or names joined by `separator`."""

    text: str = "text"
    pair: str | None = None
    label: str = "labels"
    drop_empty: bool = False  # as of Classify
    separator: str = "|"
    labels: tuple[str, ...] | None = None

    head = "sequence-classification"
    problem_type = "multi_label_classification"

    def columns(self):
        return columns_of(self.text, self.pair, self.label)

    def prepare(self, rows, setting):
        values = [name for names in checked(rows, self._lists) for name in names]
        labels = self.labels or known_labels(rows, self.label, values, setting.labels)
        return replace(self, labels=tuple(labels))

    def encode(self, rows, setting):
        numbers = {name: number for number, name in enumerate(self.labels)}
        lists = self._lists(rows)
        raise_problems([problem for names in lists for problem in unknown_labels(names, numbers)][:SHOWN])
        targets = np.zeros((len(rows), 1, len(self.labels)), np.float32)
        for target, names in zip(targets, lists, strict=True):
            target[0, [numbers[name] for name in names]] = 1.0
        return labelled(self, rows, setting, targets)

    def draw(self, example, rng, setting):
        return example

    def slots(self, length):
        return 1

    def loss(self, out, batch):
        errors = jnp.mean(optax.sigmoid_binary_cross_entropy(out.logits, batch["targets"]), -1)
        return {"loss": Mean.of(errors, batch["weights"])}

    def collect(self, out, batch):
        return {"logits": out.logits, "targets": batch["targets"]}

    def summarise(self, sums, kept):
        targets, logits = kept["targets"].astype(int), kept["logits"]
        return multilabel_metrics(targets, (logits > 0).astype(int)) | label_probability_metrics(targets, logits)

    def by_class(self, kept):
        return label_lines(kept["targets"].astype(int), (kept["logits"] > 0).astype(int), self.labels)

    def picture(self, kept):
        return label_figures(kept["targets"].astype(int), (kept["logits"] > 0).astype(int), self.labels)

    def tally(self, targets):
        return dict(zip(self.labels, targets.sum(0, dtype=int).tolist(), strict=True))

    def _lists(self, rows) -> list[list[str]]:
        return [self._list(row[self.label]) for row in rows]

    def _list(self, value) -> list[str]:
        items = value.split(self.separator) if isinstance(value, str) else [] if value is None else value
        if not isinstance(items, list):
            raise_problems([f"column {self.label!r} holds {shown(value)}, expected a list of names, or a text"])
        names = [text_of(item, self.label).strip() for item in items if item is not None]
        return [name for name in names if name]


@config
class Regress:
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

    def prepare(self, rows, setting):
        return self

    def encode(self, rows, setting):
        given = [row[self.label] for row in rows]
        values = [finite_number(value) for value in given]
        bad = [raw for raw, value in zip(given, values, strict=True) if value is None and raw is not None]
        raise_problems(f"column {self.label!r} holds {shown(value)}, expected a number" for value in bad[:SHOWN])
        targets = [None if value is None else np.array([value], np.float32) for value in values]
        return labelled(self, rows, setting, targets)

    def draw(self, example, rng, setting):
        return example

    def slots(self, length):
        return 1

    def loss(self, out, batch):
        return {"loss": Mean.of((out.logits[..., 0] - batch["targets"]) ** 2, batch["weights"])}

    def collect(self, out, batch):
        return {"logits": out.logits, "targets": batch["targets"]}

    def summarise(self, sums, kept):
        return regression_metrics(kept["targets"], kept["logits"][:, 0])

    def picture(self, kept):
        return value_figures(kept["targets"], kept["logits"][:, 0])

    def tally(self, targets):
        return {"smallest": float(targets.min()), "mean": float(targets.mean()), "largest": float(targets.max())}


def labelled(task, rows, setting: Setting, targets) -> list[dict | str]:
    """Examples with the one position that the head reads; a target None is none."""
    texts = column(rows, task.text)
    examples = []
    encoded = encode_texts(setting, texts, column(rows, task.pair) if task.pair else None)
    for example, target in zip(encoded, targets, strict=True):
        if target is None:
            examples.append("no label")
        elif not len(example["tokens"]) or (task.drop_empty and example["empty"]):
            examples.append("no text")  # without any token, not even a special one, there is nothing to read
        else:
            last = len(example["tokens"]) - 1
            at = np.array([0 if setting.reads == "first" else last], np.int32)
            examples.append(example | {"at": at, "weights": np.ones(1, np.float32), "targets": target})
    return examples


def labels_of(rows, name: str) -> list[str]:
    """The class name of every labelled row, as text."""
    return [value for value in checked(rows.named(), lambda piece: _names(piece, name)) if value is not None]


def _names(rows, name: str) -> list[str | None]:
    """Class names as text; None for a row without label."""
    return [None if row[name] is None else text_of(row[name], name) for row in rows]
