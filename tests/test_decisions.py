"""Decisions: thresholds of scikit-learn's curve, PyTorch's pos_weight, the positive class, and what is exported."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import torch
import transformers
from conftest import TEXTS, bert_config, rows_of, save_perturbed
from scipy.special import expit, softmax
from sklearn import metrics as sklearn
from torch.nn import functional

import jaxft
from jaxft import predict
from jaxft.config import Config, Eval, Mesh
from jaxft.data import Data, Pad
from jaxft.fairness.counterfactual import compare_rows
from jaxft.fairness.swaps import Swaps
from jaxft.metrics import classification_metrics, objective
from jaxft.metrics.decisions import Decision, best_threshold, label_thresholds
from jaxft.metrics.probabilities import class_probability_metrics
from jaxft.models.model import Outputs
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.classify import Classify, MultiLabel
from jaxft.training.fit import fit
from jaxft.training.saved_run import evaluate_model, evaluate_run, export_run

NAMES = ("calm", "dull", "glad")


def best_of_curve(true, shares) -> float:
    precision, recall, _ = sklearn.precision_recall_curve(true, shares)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))


@pytest.mark.parametrize("levels", [3, 10, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_a_tuned_threshold_has_the_best_f1_of_the_curve(levels, seed):
    """And what is above it has this F1: few levels make equal probabilities."""
    rng = np.random.default_rng(seed)
    shares = rng.integers(0, levels + 1, 40) / levels
    true = rng.random(40) < 0.2 + 0.6 * shares
    threshold, f1 = best_threshold(true, shares)
    assert f1 == pytest.approx(best_of_curve(true, shares))
    assert sklearn.f1_score(true, shares > threshold) == pytest.approx(f1)
    halves = (np.unique(np.append(shares, 0))[1:] + np.unique(np.append(shares, 0))[:-1]) / 2
    best = [one for one in halves if sklearn.f1_score(true, shares > one) == pytest.approx(f1)]
    assert threshold == pytest.approx(min(best, key=lambda one: abs(one - 0.5)))


def test_thresholds_that_nothing_decides():
    some = np.array([0.2, 0.7])
    for true, shares in ((some > 1, some), (some > 0, np.array([np.nan, 1.0])), (some > 0, np.zeros(2))):
        threshold, f1 = best_threshold(true, shares)
        assert threshold == 0.5 and np.isnan(f1)
    assert best_threshold(some > 0, some) == (pytest.approx(0.1), 1.0)  # all are true: below the least
    rng = np.random.default_rng(0)
    targets, logits = rng.integers(0, 2, (30, 3)), rng.normal(size=(30, 3)).astype(np.float32)
    thresholds, scores = label_thresholds(targets, logits)
    for column in range(3):
        assert (thresholds[column], scores[column]) == best_threshold(
            targets[:, column] > 0, expit(logits[:, column].astype(float))
        )


def test_a_decision_of_two_classes():
    logits = np.random.default_rng(0).normal(0, 2, (200, 2)).astype(np.float32)
    shares = softmax(logits.astype(float), -1)
    np.testing.assert_array_equal(Decision()(logits), shares.argmax(1))
    np.testing.assert_array_equal(Decision(1, 0.2)(logits), shares[:, 1] > 0.2)
    np.testing.assert_array_equal(Decision(0, 0.7)(logits), ~(shares[:, 0] > 0.7))
    np.testing.assert_array_equal(Decision(0, 0.7)(np.log(shares)), Decision(0, 0.7)(logits))


@pytest.mark.parametrize("positive", [0, 1])
def test_the_positive_class_is_sklearns_pos_label(positive):
    rng = np.random.default_rng(3)
    gold, logits = rng.integers(0, 2, 50), rng.normal(size=(50, 2)).astype(np.float32)
    found = logits.argmax(1)
    ours = classification_metrics(gold, found, 2, positive) | class_probability_metrics(gold, logits, positive)
    for name in ("f1", "precision", "recall"):
        wanted = getattr(sklearn, f"{name}_score")(gold, found, pos_label=positive)
        assert ours[name] == pytest.approx(wanted)
    share = softmax(logits.astype(float), -1)[:, positive]
    assert ours["average_precision"] == pytest.approx(sklearn.average_precision_score(gold, share, pos_label=positive))
    assert ours["auroc"] == pytest.approx(sklearn.roc_auc_score(gold == positive, share))
    assert ours["brier"] == pytest.approx(sklearn.brier_score_loss(gold == positive, share))


def test_pos_weight_is_pytorchs():
    """Value and gradient; `loss` is the plain one, which other runs have too. Large logits stay finite."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 3, (7, 1, 3)).astype(np.float32), rng.integers(0, 2, (7, 1, 3)).astype(np.float32)
    logits[0] = [90, -90, 0]
    weights = (0.3, 2.0, 11.0)
    task = MultiLabel(labels=NAMES, pos_weight=weights)
    batch = {"targets": targets, "weights": np.ones((7, 1), np.float32)}

    def ours(logits):
        sums = task.loss(Outputs(None, logits), batch)
        total, count = objective(sums)
        return total / count, sums

    (value, sums), gradient = jax.value_and_grad(ours, has_aux=True)(jnp.array(logits))
    given = torch.tensor(logits, requires_grad=True)
    wanted = functional.binary_cross_entropy_with_logits(given, torch.tensor(targets), pos_weight=torch.tensor(weights))
    wanted.backward()
    assert float(value) == pytest.approx(wanted.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, given.grad, atol=1e-6)
    plain = functional.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(targets))
    assert sums["loss"].value() == pytest.approx(plain.item(), rel=1e-6)
    assert {"loss", "weighted_loss"} <= task.metrics().keys()
    assert "weighted_loss" not in MultiLabel(labels=NAMES).metrics()


@pytest.fixture
def setting(bert_tokenizer):
    return EncodingContext(bert_tokenizer, 32)


@pytest.mark.parametrize("kind", ["names", "columns"])
def test_balanced_pos_weight(kind, setting, caplog):
    """Rows without the label / rows with it, of the rows that have labels at all."""
    caplog.set_level("INFO", "jaxft")
    hot = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]])
    if kind == "columns":
        rows = [{"text": "a"} | dict(zip(NAMES, map(int, row), strict=True)) for row in hot]
        task = MultiLabel(label=NAMES, pos_weight="balanced").prepare(rows_of(rows), setting)
    else:
        cells = [[name for name, on in zip(NAMES, row, strict=True) if on] for row in hot]
        rows = rows_of([{"text": "a", "labels": cell} for cell in [*cells, None]])
        task = MultiLabel(labels=NAMES, pos_weight="balanced").prepare(rows, setting)
    assert task.pos_weight == pytest.approx((1 / 3, 3 / 1, 1.0))
    assert "balanced pos_weight is 1 for the labels without a training row: glad" in caplog.text


def test_what_does_not_fit(setting):
    rows = rows_of([{"text": "a", "label": name, "labels": name} for name in NAMES])
    for task, message in (
        (Classify(positive="calm"), "task.positive: for two classes, but there are 3: calm, dull, glad"),
        (Classify(positive="calm", threshold=0.4), "task.positive and task.threshold: for two classes"),
        (MultiLabel(pos_weight=(1.0, 2.0)), "pos_weight has 2 numbers for 3 labels: calm, dull, glad"),
        (MultiLabel(thresholds=(0.5, 0.2)), "thresholds has 2 numbers for 3 labels: calm, dull, glad"),
    ):
        with pytest.raises(UserError, match=message):
            task.prepare(rows, setting)
    two = rows_of([{"text": "a", "label": name} for name in ("no", "yes")])
    with pytest.raises(UserError, match="task.positive is 'yess', but the classes are no, yes. Did you mean 'yes'"):
        Classify(positive="yess").prepare(two, setting)
    assert MultiLabel(pos_weight="balance").problems() == ["pos_weight is 'balance', expected numbers or 'balanced'"]


WORDS = sorted({word for text in TEXTS for word in text.split()})


def written(path, kind, count, seed) -> Data:
    """Rows whose labels depend on the words, so that there is something to learn and to tune."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        words = list(rng.choice(WORDS, 8))
        here = [name for name, word in zip(NAMES, ("the", "a", "and"), strict=True) if word in words]
        label = {"labels": here} if kind == "several" else {"label": "yes" if len(here) > 1 else "no"}
        lines.append(json.dumps({"text": " ".join(words)} | label))
    path.write_text("\n".join(lines) + "\n")
    return Data(path=str(path))


TASKS = {
    "several": MultiLabel(thresholds="val", pos_weight="balanced"),
    "two": Classify(positive="no", threshold="val"),
}


@pytest.fixture(scope="module")
def trained(tiny_bert, tmp_path_factory):
    """Work directories of a run for each task, by its kind."""
    made = {}
    for kind, task in TASKS.items():
        folder = tmp_path_factory.mktemp(kind)
        cfg = Config(
            model=str(tiny_bert),
            task=task,
            data=written(folder / "train.jsonl", kind, 40, 0),
            evals={"val": Eval(data=written(folder / "val.jsonl", kind, 60, 1))},
            batching=Pad(),
            max_len=32,
            batch=8,
            lr=1e-3,
            steps=6,
            epochs=None,
            mesh=Mesh(data=1),
        )
        fit(cfg, str(folder / "run"))
        made[kind] = folder, cfg
    return made


def logged(folder) -> dict:
    return json.loads((folder / "run/metrics.jsonl").read_text().splitlines()[-1])


def decoding(directory) -> dict:
    return json.loads((directory / "jaxft.json").read_text())["decoding"]


def test_tuned_thresholds_are_exported_and_used(trained, tmp_path, one_device, caplog):
    """The model directory has the thresholds of `val`; evaluating it and predicting give the F1 that tuning found."""
    caplog.set_level("INFO", "jaxft")
    folder, cfg = trained["several"]
    numbers = logged(folder)
    thresholds = [numbers[f"best_f1_thresh/{name}"] for name in NAMES]
    assert decoding(folder / "run/model")["thresholds"] == thresholds and len({*thresholds, 0.5}) == 4
    model = jaxft.load(str(folder / "run/model"))
    rows = [json.loads(line) for line in (folder / "val.jsonl").read_text().splitlines()]
    answers = model.predict(rows, scores="all")
    gold = np.array([[name in row["labels"] for name in NAMES] for row in rows])
    found = np.array([[name in answer["labels"] for name in NAMES] for answer in answers])
    shares = np.array([[answer["label_scores"][name] for name in NAMES] for answer in answers])
    np.testing.assert_array_equal(found, shares > thresholds)
    wanted = [best_of_curve(*column) for column in zip(gold.T, shares.T, strict=True)]
    assert numbers["best_f1_macro"] == pytest.approx(np.mean(wanted), abs=1e-6)
    assert sklearn.f1_score(gold, found, average="macro") == pytest.approx(np.mean(wanted), abs=1e-6)
    for measured in (
        evaluate_run(str(folder / "run"), None)["val"],
        evaluate_model(cfg, str(folder / "run/model"))["val"],
    ):
        assert measured["f1_macro"] == pytest.approx(np.mean(wanted), abs=1e-6) and "best_f1_macro" not in measured
    assert "the thresholds are tuned on val: " in caplog.text and "not as the model was evaluated" not in caplog.text
    export_run(str(folder / "run"), str(tmp_path / "again"), None, "merged")
    assert decoding(tmp_path / "again")["thresholds"] == thresholds
    assert numbers["f1_macro"] == pytest.approx(sklearn.f1_score(gold, shares > 0.5, average="macro", zero_division=0))


def test_the_tuned_threshold_of_two_classes(trained, one_device, caplog):
    caplog.set_level("INFO", "jaxft")
    folder, cfg = trained["two"]
    numbers = logged(folder)
    own = decoding(folder / "run/model")
    assert own["positive"] == "no" and own["threshold"] == numbers["best_f1_thresh"] != 0.5
    model = jaxft.load(str(folder / "run/model"))
    rows = [json.loads(line) for line in (folder / "val.jsonl").read_text().splitlines()]
    answers = model.predict(rows, scores="all")
    gold, share = np.array([row["label"] == "no" for row in rows]), [one["label_scores"]["no"] for one in answers]
    found = [answer["label"] == "no" for answer in answers]
    np.testing.assert_array_equal(found, np.array(share) > own["threshold"])
    assert all(answer["score"] == answer["label_scores"][answer["label"]] for answer in answers)
    assert sklearn.f1_score(gold, found) == pytest.approx(best_of_curve(gold, share))
    for measured in (
        evaluate_run(str(folder / "run"), None)["val"],
        evaluate_model(cfg, str(folder / "run/model"))["val"],
    ):
        assert measured["f1"] == pytest.approx(numbers["best_f1"], abs=1e-6) and measured["positive_class"] == "no"
    changed = evaluate_model(replace(cfg, task=replace(cfg.task, threshold=0.9)), str(folder / "run/model"))["val"]
    assert changed["recall"] == pytest.approx(np.mean(np.array(share)[gold] > 0.9))
    assert "not as the model was evaluated: threshold 0.9 instead of" in caplog.text
    pictures = (folder / "run/pictures.jsonl").read_text()
    assert "the positive class is no" in pictures


def test_balanced_weights_without_training_rows(trained, one_device, caplog):
    """A model directory is evaluated by its own labels: the plain loss is all there is."""
    caplog.set_level("INFO", "jaxft")
    folder, cfg = trained["two"]
    cfg = replace(cfg, task=replace(cfg.task, class_weights="balanced"))
    assert "weighted_loss" not in evaluate_model(cfg, str(folder / "run/model"))["val"]
    assert "class_weights='balanced' needs the training rows" in caplog.text


def test_explanations_and_swaps_decide_as_predict(trained, one_device):
    folder, _ = trained["two"]
    model = jaxft.load(str(folder / "run/model"))
    rows = [json.loads(line) for line in (folder / "val.jsonl").read_text().splitlines()]
    for threshold in (0.001, 0.999):
        asked = model.departing(threshold=threshold)
        predicted = asked.predict(rows[0])[0]["label"]
        assert predicted == ("no" if threshold == 0.001 else "yes")
        assert jaxft.explain(asked, rows[0]["text"], method="occlusion").predicted == predicted
        swaps = Swaps([("the", "a")])
        compared = compare_rows(asked, rows_of(rows), ["text"], None, swaps, 8)
        assert compared.summary()["changed"] == 0.0


def test_an_unknown_set(tiny_bert, tmp_path):
    data = written(tmp_path / "train.jsonl", "several", 8, 0)
    cfg = Config(model=str(tiny_bert), task=MultiLabel(thresholds="vla"), data=data, batch=8, lr=1e-3, steps=2)
    wanted = "tunes thresholds on 'vla', but no eval has this name. Did you mean 'val'. The evals are: val."
    with pytest.raises(UserError, match=wanted):
        fit(replace(cfg, evals={"val": Eval(data=data)}, batching=Pad(), max_len=32), str(tmp_path / "run"))


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_scores_of_all_labels(kind, bert_tokenizer, tmp_path, one_device):
    """PyTorch's, on request; without it an answer is as it was. In files too."""
    made = transformers.BertForSequenceClassification(bert_config(bert_tokenizer, num_labels=3, problem_type=kind))
    for number, name in enumerate(NAMES):
        made.config.id2label[number] = name
    directory = save_perturbed(made, bert_tokenizer, tmp_path / "model")
    theirs = transformers.BertForSequenceClassification.from_pretrained(directory).eval()
    with torch.no_grad():
        logits = torch.stack([theirs(**bert_tokenizer(text, return_tensors="pt")).logits[0] for text in TEXTS])
    wanted = (torch.softmax(logits, -1) if kind.startswith("single") else torch.sigmoid(logits)).numpy()
    model = jaxft.load(str(directory))
    plain, full = model.predict(TEXTS), model.predict(TEXTS, scores="all")
    assert [{name: one[name] for name in one if name != "label_scores"} for one in full] == plain
    found = [[answer["label_scores"][name] for name in NAMES] for answer in full]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(UserError, match="scores is 'every', expected predicted or all"):
        model.predict(TEXTS, scores="every")
    with pytest.raises(UserError, match="causal-lm takes no 'scores'|none takes no 'scores'"):
        jaxft.load(str(directory), "none").predict(TEXTS, scores="all")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    flags = dict.fromkeys("text pair max_len prompt_name decode".split()) | {"scores": "all", "batch": 8}
    flags |= {"model": str(directory), "input": str(tmp_path / "in.jsonl"), "output": str(tmp_path / "out.csv")}
    predict.main(type("", (), flags))
    table = pandas.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(table[[f"label_scores.{name}" for name in NAMES]], wanted, atol=1e-5)


def test_a_threshold_that_does_not_fit_the_model(bert_tokenizer, tmp_path, one_device):
    made = transformers.BertForSequenceClassification(bert_config(bert_tokenizer, num_labels=3))
    model = jaxft.load(str(save_perturbed(made, bert_tokenizer, tmp_path / "model")))
    with pytest.raises(UserError, match="a threshold for two classes, but the model has 3"):
        model.predict("a", threshold=0.3)
    with pytest.raises(UserError, match="positive is 'x', but the classes are"):
        model.predict("a", positive="x")
