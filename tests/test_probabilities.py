"""Ranking and calibration of probabilities: scikit-learn's numbers, and a bin at a time."""

import warnings

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as sklearn
from sklearn.preprocessing import label_binarize

from jaxft.metrics.probabilities import (
    auroc,
    average_precision,
    calibration_error,
    class_probability_metrics,
    label_probability_metrics,
)

ULP = 1e-12


@pytest.mark.parametrize("rows", [2, 3, 10, 200])
@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_one_column(rows, levels):
    """With many equal scores, with some, and with none."""
    rng = np.random.default_rng(rows + levels)
    for share in (0.1, 0.5, 0.9):
        true = rng.random(rows) < share
        true[:2] = True, False
        scores = rng.integers(0, levels, rows) / levels - 0.3
        assert auroc(true, scores) == pytest.approx(sklearn.roc_auc_score(true, scores), abs=ULP)
        assert average_precision(true, scores) == pytest.approx(sklearn.average_precision_score(true, scores), abs=ULP)


def test_one_sided_columns():
    none, every, scores = np.zeros(3, bool), np.ones(3, bool), np.array([0.1, 0.1, 0.7])
    assert (
        np.isnan(auroc(none, scores)) and np.isnan(auroc(every, scores)) and np.isnan(average_precision(none, scores))
    )
    assert average_precision(every, scores) == 1.0
    empty = np.zeros(0)
    assert np.isnan(auroc(empty > 0, empty)) and np.isnan(average_precision(empty > 0, empty))
    unknown = np.array([0.1, np.nan, 0.7])
    assert np.isnan(auroc(np.array([True, False, True]), unknown)) and np.isnan(average_precision(every, unknown))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [1, 4, 60])
def test_two_classes(rows, seed):
    rng = np.random.default_rng(seed)
    gold, logits = rng.integers(0, 2, rows), rng.normal(0, 3, (rows, 2)).astype(np.float32)
    shares = softmax(logits.astype(np.float64), -1)[:, 1]
    found = class_probability_metrics(gold, logits)
    assert found["brier"] == pytest.approx(sklearn.brier_score_loss(gold, shares, pos_label=1), abs=ULP)
    if gold.any():
        wanted = sklearn.average_precision_score(gold, shares)
        assert found["average_precision"] == pytest.approx(wanted, abs=ULP)
    assert ("average_precision" in found) == gold.any()
    if 0 < gold.sum() < rows:
        assert found["auroc"] == pytest.approx(sklearn.roc_auc_score(gold, shares), abs=ULP)
    assert ("auroc" in found) == (0 < gold.sum() < rows)


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_many_classes(classes, seed):
    rng = np.random.default_rng(seed)
    gold = np.append(np.arange(classes), rng.integers(0, classes, 40))
    logits = rng.normal(0, 2, (len(gold), classes)).astype(np.float32)
    shares = softmax(logits.astype(np.float64), -1)
    found = class_probability_metrics(gold, logits)
    true = label_binarize(gold, classes=range(classes))
    assert found["auroc"] == pytest.approx(
        sklearn.roc_auc_score(gold, shares, multi_class="ovr", average="macro"), abs=ULP
    )
    assert found["average_precision"] == pytest.approx(
        sklearn.average_precision_score(true, shares, average="macro"), abs=ULP
    )
    wanted = sklearn.brier_score_loss(gold, shares, labels=range(classes))
    assert found["brier"] == pytest.approx(wanted, abs=ULP)


def test_classes_that_no_row_has_take_no_part():
    rng = np.random.default_rng(0)
    gold, logits = rng.integers(0, 3, 30), rng.normal(size=(30, 5))
    true, shares = label_binarize(gold, classes=range(3)), softmax(logits, -1)[:, :3]
    found = class_probability_metrics(gold, logits)
    assert found["auroc"] == pytest.approx(sklearn.roc_auc_score(true, shares, average="macro"), abs=ULP)
    wanted = sklearn.average_precision_score(true, shares, average="macro")
    assert found["average_precision"] == pytest.approx(wanted, abs=ULP)


@pytest.mark.parametrize("seed", range(3))
def test_labels(seed):
    rng = np.random.default_rng(seed)
    gold, logits = (rng.random((40, 5)) < 0.3).astype(int), rng.normal(0, 3, (40, 5)).astype(np.float32)
    gold[:, 3] = 0  # a label that no row has
    gold[0, :3], gold[1, :3], gold[:2, 4] = 1, 0, (0, 1)
    shares, some = expit(logits.astype(np.float64)), [0, 1, 2, 4]
    found = label_probability_metrics(gold, logits)
    assert found["auroc"] == pytest.approx(sklearn.roc_auc_score(gold[:, some], shares[:, some]), abs=ULP)
    wanted = sklearn.average_precision_score(gold[:, some], shares[:, some])
    assert found["average_precision"] == pytest.approx(wanted, abs=ULP)
    assert found["brier"] == pytest.approx(sklearn.brier_score_loss(gold.ravel(), shares.ravel(), pos_label=1), abs=ULP)
    sure = np.where(shares > 0.5, shares, 1 - shares)
    right = np.where(shares > 0.5, gold == 1, gold == 0)
    assert found["calibration_error"] == pytest.approx(bin_by_bin(sure.ravel(), right.ravel(), 15), abs=ULP)


def test_no_label_anywhere():
    found = label_probability_metrics(np.zeros((4, 2), int), np.zeros((4, 2)))
    assert found == {"calibration_error": 0.5, "brier": 0.25}  # a confidence of 0.5, and always right


def bin_by_bin(confidences, right, bins: int) -> float:
    """Guo et al. 2017, equations 1 to 3, as they are written."""
    total = 0.0
    for m in range(1, bins + 1):
        members = [i for i, p in enumerate(confidences) if (m - 1) / bins < p <= m / bins]
        if members:
            accuracy = sum(bool(right[i]) for i in members) / len(members)
            confidence = sum(float(confidences[i]) for i in members) / len(members)
            total += len(members) / len(confidences) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 2, 15])
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_calibration(bins, rows):
    rng = np.random.default_rng(bins + rows)
    confidences = np.append(rng.random(rows), [1.0, 0.5, 1 / 15, 1e-300])
    right = rng.random(rows + 4) < confidences
    assert calibration_error(confidences, right, bins) == pytest.approx(bin_by_bin(confidences, right, bins), abs=ULP)


def test_calibration_of_known_cases():
    assert calibration_error(np.ones(4), np.ones(4, bool)) == 0.0
    assert calibration_error(np.ones(4), np.zeros(4, bool)) == 1.0
    assert calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0]) > 0) == pytest.approx(0.0, abs=ULP)
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_calibration_of_classes():
    rng = np.random.default_rng(1)
    gold, logits = rng.integers(0, 4, 50), rng.normal(0, 2, (50, 4))
    shares = softmax(logits, -1)
    wanted = bin_by_bin(shares.max(1), shares.argmax(1) == gold, 15)
    assert class_probability_metrics(gold, logits)["calibration_error"] == pytest.approx(wanted, abs=ULP)


def test_a_model_that_diverged():
    """NaN, which is written as null, and no ranks that mean nothing."""
    logits = np.array([[0.0, 1.0], [np.nan, 0.0], [np.inf, np.inf]], np.float32)
    with warnings.catch_warnings(action="error"):
        found = class_probability_metrics(np.array([0, 1, 1]), logits)
        more = label_probability_metrics(np.array([[0, 1], [1, 0], [1, 1]]), np.where(np.isinf(logits), np.nan, logits))
    for numbers in (found, more):
        assert numbers.keys() == {"calibration_error", "brier"} and np.isnan(list(numbers.values())).all()
