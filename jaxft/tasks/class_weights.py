"""Weights of classes and labels in the loss, from the training rows: "balanced" of `class_weights` and `pos_weight`."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from jaxft.problems import listed
from jaxft.tasks.labels import numbering

log = logging.getLogger("jaxft")


def balanced(labels: Sequence[str], counts: Mapping[str, int]) -> tuple[float, ...]:
    """Class weights that give all classes with rows the same total weight, with a mean of 1 per row; 0 for others."""
    rows, known = np.zeros(len(labels)), numbering(labels)
    for name, count in counts.items():
        rows[known.get(name, 0)] += count if name in known else 0
    if absent := [name for name, count in zip(labels, rows, strict=True) if not count]:
        log.info("balanced class_weights are 0 for the classes without a training row: %s", listed(absent))
    share = rows.sum() / max(len(labels) - len(absent), 1)
    return tuple(np.divide(share, rows, out=np.zeros_like(rows), where=rows > 0).tolist())


def balanced_positives(labels: Sequence[str], targets: Sequence[np.ndarray]) -> tuple[float, ...]:
    """For each label the rows without it / the rows with it, 1 for a label of no row; `targets` are (1, labels)."""
    counts = np.concatenate(targets).sum(0) if targets else np.zeros(len(labels))
    if absent := [name for name, count in zip(labels, counts, strict=True) if not count]:
        log.info("balanced pos_weight is 1 for the labels without a training row: %s", listed(absent))
    return tuple(np.where(counts > 0, (len(targets) - counts) / np.maximum(counts, 1), 1.0).tolist())


def known_weights(weights: tuple[float, ...] | str | None, name: str) -> tuple[float, ...] | None:
    """The weights where there are no training rows: none, with a log line, if these would decide them."""
    if not isinstance(weights, str):
        return weights
    log.info("%s=%r needs the training rows: without them there is no weighted_loss", name, weights)
    return None
