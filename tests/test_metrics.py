"""Metrics: scikit-learn's and SciPy's numbers over whole sets, and sums that do not depend on how data are cut."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn
from sklearn.exceptions import UndefinedMetricWarning

from jaxft.evaluation.evaluate import evaluate
from jaxft.metrics import (
    Mean,
    add,
    classification_metrics,
    confusion,
    matthews_correlation,
    multilabel_metrics,
    regression_metrics,
)
from jaxft.metrics.classes import averages, class_lines, label_lines
from jaxft.tasks.base import Task

ULP = 1e-12


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_classification(classes, seed):
    rng = np.random.default_rng(seed)
    gold, answer = rng.integers(0, classes, (2, 9 + 20 * seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        wanted = {
            "accuracy": sklearn.accuracy_score(gold, answer),
            "f1_macro": sklearn.f1_score(gold, answer, average="macro"),
            "f1_weighted": sklearn.f1_score(gold, answer, average="weighted"),
            "matthews_correlation": sklearn.matthews_corrcoef(gold, answer),
        }
        if classes == 2:
            wanted["f1"] = sklearn.f1_score(gold, answer)
            wanted["precision"] = sklearn.precision_score(gold, answer)
            wanted["recall"] = sklearn.recall_score(gold, answer)
    assert classification_metrics(gold, answer, classes) == pytest.approx(wanted, abs=ULP)
    counts = confusion(gold, answer, classes)
    assert np.array_equal(counts, sklearn.confusion_matrix(gold, answer, labels=range(classes)))


def test_known_values():
    found = classification_metrics(np.array([0, 1, 2, 2, 1, 0]), np.array([0, 2, 2, 2, 1, 1]), 3)
    assert found["f1_macro"] == pytest.approx(0.655556, abs=1e-6)
    assert found["f1_weighted"] == pytest.approx(0.655556, abs=1e-6)
    assert found["accuracy"] == pytest.approx(0.666667, abs=1e-6)  # which is what micro F1 is for one class a text
    assert "f1" not in found
    assert classification_metrics(np.array([1, 0, 1, 1]), np.array([1, 0, 0, 1]), 2)["f1"] == pytest.approx(0.8)


def test_absent_classes_take_no_part():
    found = classification_metrics(np.array([2, 2]), np.array([2, 2]), 3)
    assert found == {"accuracy": 1.0, "f1_macro": 1.0, "f1_weighted": 1.0, "matthews_correlation": 0.0}


@pytest.mark.parametrize("gold, answer", [([1, 1, 1], [0, 1, 1]), ([0, 1, 1], [1, 1, 1]), ([0, 0], [0, 0]), ([0], [1])])
def test_one_sided(gold, answer):
    found = classification_metrics(np.array(gold), np.array(answer), 2)
    assert found["matthews_correlation"] == 0.0
    assert found["f1"] == sklearn.f1_score(gold, answer, zero_division=0)
    assert found["precision"] == sklearn.precision_score(gold, answer, zero_division=0)
    assert found["recall"] == sklearn.recall_score(gold, answer, zero_division=0)
    assert all(np.isfinite(list(found.values())))


def test_matthews_of_a_large_set_does_not_overflow():
    counts = np.array([[9, 1], [2, 8]])
    assert matthews_correlation(counts * 10**8) == pytest.approx(matthews_correlation(counts), abs=ULP)


@pytest.mark.parametrize("seed", range(3))
def test_several_labels(seed):
    rng = np.random.default_rng(seed)
    gold, answer = (rng.random((2, 11, 5)) < 0.4).astype(int)
    gold[:, 4] = answer[:, 4] = 0
    wanted = {
        "accuracy": sklearn.accuracy_score(gold, answer),
        "f1_micro": sklearn.f1_score(gold, answer, average="micro", zero_division=0),
        "f1_macro": sklearn.f1_score(gold, answer, average="macro", zero_division=0),
    }
    assert multilabel_metrics(gold, answer) == pytest.approx(wanted, abs=ULP)


def test_several_labels_none_anywhere():
    nothing = np.zeros((3, 2), int)
    assert multilabel_metrics(nothing, nothing) == {"accuracy": 1.0, "f1_micro": 0.0, "f1_macro": 0.0}


KINDS = ("micro", "macro", "weighted")


def theirs(gold, answer, **how):
    """precision, recall and f1 by scikit-learn."""
    scores = sklearn.precision_recall_fscore_support(gold, answer, zero_division=0, **how)[:3]
    return dict(zip(("precision", "recall", "f1"), scores, strict=True))


@pytest.mark.parametrize("classes, rows", [(2, 1), (2, 30), (5, 7), (7, 200)])
def test_lines_of_classes(classes, rows):
    """As scikit-learn's report: the classes that occur on either side, and three kinds of average."""
    rng = np.random.default_rng(classes + rows)
    gold, answer = rng.integers(0, classes, (2, rows))
    labels = [f"klasse {number} – ё" for number in range(classes)]
    lines = class_lines(gold, answer, labels)
    report = sklearn.classification_report(
        [labels[one] for one in gold], [labels[one] for one in answer], output_dict=True, zero_division=0
    )
    for line in lines:
        if "class" in line:
            wanted = report.pop(line["class"])
        else:
            wanted = theirs(gold, answer, average=line["average"]) | {"support": rows, "f1-score": None}
            wanted["f1-score"] = wanted.pop("f1")
        assert line["rows"] == wanted["support"]
        assert line["precision"] == pytest.approx(wanted["precision"], abs=ULP)
        assert line["recall"] == pytest.approx(wanted["recall"], abs=ULP)
        assert line["f1"] == pytest.approx(wanted["f1-score"], abs=ULP)
    assert report.keys() <= {"accuracy", "macro avg", "weighted avg", "micro avg"}  # no class is missing
    assert [line["average"] for line in lines if "average" in line] == list(KINDS)
    macro = next(line["f1"] for line in lines if line.get("average") == "macro")
    assert macro == pytest.approx(classification_metrics(gold, answer, classes)["f1_macro"], abs=ULP)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_lines_of_labels(rate):
    rng = np.random.default_rng(5)
    gold, answer = (rng.random((2, 11, 4)) < rate).astype(int)
    answer[:, 2] = 0
    *each, micro, macro, weighted = label_lines(gold, answer, list("abcd"))
    assert [line["class"] for line in each] == list("abcd")
    for name, values in theirs(gold, answer, average=None).items():
        assert [line[name] for line in each] == pytest.approx(values.tolist(), abs=ULP)
    for line in (micro, macro, weighted):
        scores = theirs(gold, answer, average=line["average"])
        assert {name: line[name] for name in scores} == pytest.approx(scores, abs=ULP)
    assert macro["f1"] == pytest.approx(multilabel_metrics(gold, answer)["f1_macro"], abs=ULP)


def test_averages_of_nothing():
    nothing = np.zeros(3, int)
    assert averages(nothing, nothing, nothing) == {kind: {"precision": 0, "recall": 0, "f1": 0} for kind in KINDS}


@pytest.mark.parametrize("seed", range(3))
def test_regression(seed):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 6, 25).astype(np.float32)  # with ties
    answer = (gold + rng.standard_normal(25)).astype(np.float32)
    found = regression_metrics(gold, answer)
    assert found["mse"] == pytest.approx(sklearn.mean_squared_error(gold, answer), rel=1e-6)
    assert found["mae"] == pytest.approx(sklearn.mean_absolute_error(gold, answer), rel=1e-6)
    assert found["pearson"] == pytest.approx(np.corrcoef(gold, answer)[0, 1], rel=1e-6)
    ranks = stats.rankdata(gold), stats.rankdata(answer)
    assert found["spearmanr"] == pytest.approx(np.corrcoef(*ranks)[0, 1], rel=1e-6)
    assert found["r2"] == pytest.approx(sklearn.r2_score(gold, answer), rel=1e-6)


@pytest.mark.parametrize("gold, answer", [([1, 1, 1], [0, 1, 2]), ([0, 1, 2], [3, 3, 3]), ([1], [2])])
def test_correlation_with_a_constant(gold, answer):
    found = regression_metrics(np.array(gold, np.float32), np.array(answer, np.float32))
    assert found["pearson"] == found["spearmanr"] == 0.0
    assert found["mse"] == sklearn.mean_squared_error(gold, answer)
    assert found["r2"] == (sklearn.r2_score(gold, answer) if len(gold) > 1 else 0.0)


def test_a_mean_is_its_two_sums():
    pieces = [Mean.of(np.full(3, 2.0), np.ones(3)), Mean.of(np.full(7, 1.0), np.ones(7))]
    whole = add({"loss": pieces[0]}, {"loss": pieces[1]})["loss"]
    assert whole.value() == pytest.approx(1.3, abs=1e-7)
    values, weights = np.array([1.0, np.nan, np.inf, 4.0]), np.array([2.0, 0.0, 0.0, 0.5])
    assert Mean.of(values, weights).value() == pytest.approx(np.average([1, 4], weights=[2, 0.5]))
    assert np.isnan(Mean.of(values, np.zeros(4)).value())


class Kept(Task):
    """A task whose examples carry their own loss."""

    def compute_metrics(self, sums, kept):
        return {"perplexity": np.exp(sums["loss"].value()), "rows": kept["row"].tolist()}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_evaluation_does_not_depend_on_the_batch(size):
    losses = np.array([1.0, 1, 1, 1, 5])
    cuts = [np.arange(start, start + size) for start in range(0, 5, size)]
    batches = [{"row": np.where(cut < 5, cut, -1), "weights": (cut < 5) * 1.0} for cut in cuts]

    def step(batch):
        sums = {"loss": Mean.of(losses[batch["row"]], batch["weights"])}
        return sums, {"row": batch["row"], "weights": batch["weights"]}

    found, figures, files = evaluate(step, batches, lambda batch: batch, Kept())
    assert found["loss"] == pytest.approx(1.8, abs=1e-6)
    assert found["perplexity"] == pytest.approx(np.exp(1.8), rel=1e-6)
    assert found["rows"] == [0, 1, 2, 3, 4]
