"""Metrics, computed over a whole evaluation set, not as means over its batches."""

from jaxft.metrics.classes import (
    choice_metrics,
    classification_metrics,
    confusion,
    matthews_correlation,
    multilabel_metrics,
    tag_metrics,
)
from jaxft.metrics.mean import Mean, add, objective
from jaxft.metrics.regression import regression_metrics

__all__ = [
    "Mean",
    "add",
    "choice_metrics",
    "classification_metrics",
    "confusion",
    "matthews_correlation",
    "multilabel_metrics",
    "objective",
    "regression_metrics",
    "tag_metrics",
]
