"""What `evaluate` says on request: parts of a set, intervals, classes, and the accuracy that needs no model."""

import io
import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from conftest import rows_of
from scipy import stats
from sklearn import metrics as sklearn

from jaxft import evaluate
from jaxft.config import Config, Eval
from jaxft.data import Data, Pad
from jaxft.evaluation.breakdown import Breakdown
from jaxft.evaluation.slices import length_name, lengths_of, values_of
from jaxft.metrics.units import GroupedOutputs
from jaxft.problems import UserError
from jaxft.reports.terminal import print_evaluation
from jaxft.tasks.classify import Classify, MultiLabel, Regress
from jaxft.tasks.grouped_verification import GroupedVerification
from jaxft.tasks.mlm import MaskedLM
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.tasks.token_classification import TokenClassification
from jaxft.training.fit import fit
from jaxft.training.saved_run import evaluate_model, evaluate_run
from jaxft.tune.partial import Partial
from tests.conftest import TEXTS, bert_config, save_perturbed

pytestmark = pytest.mark.usefixtures("one_device")

NAMES = ["neg", "neu", "pos"]
SOURCES = ["web", "жур нал", None]
WORDS = sorted({word for text in TEXTS for word in text.split()})


def sentence(rng, most=30) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(1, most)))


def write(path, rows) -> Data:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(path=str(path))


def config(model, data, task, **more) -> Config:
    more = {"evals": {"val": Eval(data=data)}, "steps": 2, "batching": Pad(buckets=(24,))} | more
    return Config(model=str(model), task=task, data=data, lr=1e-3, batch=16, max_len=24, **more)


@pytest.fixture(scope="module")
def texts():
    """120 rows, two of them without a label."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "text": sentence(rng),
            "label": str(rng.choice(NAMES, p=[0.2, 0.5, 0.3])),
            "source": SOURCES[number % 3],
            "year": 2000 + number % 2,
            "id": f"row {number}",
            "many": number,
            "list": [1],
        }
        for number in range(120)
    ]
    rows[5]["label"] = rows[77]["label"] = None
    return rows


@pytest.fixture(scope="module")
def logits(texts, tiny_classifier):
    """PyTorch's, float64 (rows, classes)."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_classifier).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_classifier)
    given = [row["text"] for row in texts]
    batch = tokenizer(given, truncation=True, max_length=24, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits.double().numpy()


@pytest.fixture
def measured(texts, tiny_classifier, tmp_path):
    """Metrics of the labelled rows with `detail`."""
    cfg = config(tiny_classifier, write(tmp_path / "rows.jsonl", texts), Classify())
    return lambda **detail: evaluate_model(cfg, str(tiny_classifier), Breakdown(**detail))["val"]


def labelled(texts, where=lambda row: True) -> np.ndarray:
    return np.array([i for i, row in enumerate(texts) if row["label"] is not None and where(row)])


def truth(texts, chosen) -> np.ndarray:
    return np.array([NAMES.index(texts[i]["label"]) for i in chosen])


def test_metrics_of_a_set(texts, logits, measured):
    chosen = labelled(texts)
    gold, shares = truth(texts, chosen), torch.softmax(torch.tensor(logits[chosen]), -1).numpy()
    found = measured()
    assert found["accuracy"] == pytest.approx(np.mean(shares.argmax(1) == gold))
    assert found["auroc"] == pytest.approx(sklearn.roc_auc_score(gold, shares, multi_class="ovr"), abs=1e-3)
    assert found["brier"] == pytest.approx(sklearn.brier_score_loss(gold, shares), abs=1e-5)
    counts = np.bincount(gold)  # of no training set
    assert found["baseline_accuracy_own_labels"] == counts.max() / counts.sum() and "baseline_accuracy" not in found
    assert {"average_precision", "calibration_error"} <= found.keys() and "interval" not in found


@pytest.mark.parametrize("column, values", [("source", ["web", "жур нал", None]), ("year", [2000, 2001])])
def test_parts_by_a_column(texts, logits, measured, column, values):
    lines = measured(by=column)["lines"]
    assert [line["slice"] for line in lines] == [{"column": column, "value": value} for value in values]
    for line, value in zip(lines, values, strict=True):
        chosen = labelled(texts, lambda row, value=value: row[column] == value)
        gold, guesses = truth(texts, chosen), logits[chosen].argmax(1)
        assert line["rows"] == len(chosen)
        assert line["accuracy"] == pytest.approx(sklearn.accuracy_score(gold, guesses))
        assert line["f1_macro"] == pytest.approx(sklearn.f1_score(gold, guesses, average="macro"))
        assert line["matthews_correlation"] == pytest.approx(sklearn.matthews_corrcoef(gold, guesses))


def test_parts_by_length(texts, logits, measured, bert_tokenizer):
    sizes = np.array([min(24, len(bert_tokenizer(row["text"])["input_ids"])) for row in texts])
    lines = measured(by="length")["lines"]
    assert [line["slice"]["value"] for line in lines] == ["1-16 tokens", "17-32 tokens"]
    for line, within in zip(lines, (sizes <= 16, sizes > 16), strict=True):
        chosen = [i for i in labelled(texts) if within[i]]
        assert line["rows"] == len(chosen) > 10
        assert line["accuracy"] == pytest.approx(np.mean(logits[chosen].argmax(1) == truth(texts, chosen)))


def test_intervals(texts, logits, measured):
    """SciPy's, of the accuracy: the same rows drawn."""
    found = measured(resamples=200, by="year")
    lines = [(found, labelled(texts))]
    for line in found["lines"]:
        lines.append((line, labelled(texts, lambda row, line=line: row["year"] == line["slice"]["value"])))
    for line, chosen in lines:
        right = (logits[chosen].argmax(1) == truth(texts, chosen)).astype(float)
        theirs = stats.bootstrap(
            (right,), np.mean, n_resamples=200, batch=1, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        assert line["interval"]["accuracy"] == pytest.approx([theirs.low, theirs.high], abs=1e-12)
        for name, (low, high) in line["interval"].items():
            assert low <= high and (name == "calibration_error" or low <= line[name] <= high), name
        assert {"auroc", "f1_macro", "brier"} <= line["interval"].keys() and "loss" not in line["interval"]


def test_classes(texts, logits, measured):
    lines = measured(classes=True)["lines"]
    chosen = labelled(texts)
    report = sklearn.classification_report(
        truth(texts, chosen),
        logits[chosen].argmax(1),
        labels=range(3),
        target_names=NAMES,
        output_dict=True,
        zero_division=0,
    )
    for line in lines[:3]:
        wanted = report[line["class"]]
        assert (line["rows"], line["f1"]) == (wanted["support"], pytest.approx(wanted["f1-score"]))
    assert [line["average"] for line in lines[3:]] == ["micro", "macro", "weighted"]


def test_the_command(texts, tiny_bert, tmp_path, capsys, caplog):
    """A run knows its training labels. Lines are JSON, the set's own first."""
    train = [row | {"label": NAMES[number % 3 and 2]} for number, row in enumerate(texts)]  # pos is the commonest
    data = write(tmp_path / "val.jsonl", texts)
    cfg = config(
        tiny_bert,
        write(tmp_path / "train.jsonl", train),
        Classify(labels=tuple(NAMES)),
        evals={"val": Eval(data=data)},
        tune=Partial(train=("head",)),
    )
    workdir = str(tmp_path / "run")
    trained = fit(cfg, workdir).metrics["val"]
    plain = evaluate_run(workdir, None)["val"]
    commonest = sum(row["label"] == "pos" for row in texts) / 118
    assert plain.pop("baseline_accuracy") == pytest.approx(commonest, abs=1e-12)
    assert plain == pytest.approx(trained, abs=1e-5)
    flags = {"model": None, "config": None, "step": None, "bootstrap": 100, "by": "source", "classes": True}
    answers = tmp_path / "answers"
    evaluate.main(SimpleNamespace(workdir=workdir, output=str(answers), **flags))
    assert f"val: nothing to write to {answers}: jaxft.predict" in caplog.text and not answers.exists()
    with pytest.raises(UserError, match="val.jsonl is a file: name a folder"):
        evaluate.main(SimpleNamespace(workdir=workdir, output=str(tmp_path / "val.jsonl"), **flags))
    first, *lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["split"] == "val" and first["baseline_accuracy"] == pytest.approx(commonest)
    low, high = first["interval"]["accuracy"]
    assert low <= first["accuracy"] <= high and "lines" not in first
    kinds = [next(key for key in ("class", "average", "slice") if key in line) for line in lines]
    assert kinds == sorted(kinds, key=["class", "average", "slice"].index) and kinds.count("slice") == 3
    assert all(line["split"] == "val" for line in lines) and all("interval" in line for line in lines[-3:])


def tagged(rng, number) -> dict:
    words = [str(word) for word in rng.choice(WORDS, rng.integers(1, 9))]
    tags = [str(rng.choice(["O", "B-PER", "I-PER", "B-LOC"])) for _ in words]
    return {"tokens": words, "ner_tags": tags, "part": number % 3}


def labels(rng, number) -> dict:
    return {"text": sentence(rng), "label": [name for name in NAMES if rng.random() < 0.4], "part": number % 3}


def numbered(rng, number) -> dict:
    return {"text": sentence(rng), "label": float(rng.normal()), "part": number % 3}


CASES = {
    "tags": (
        TokenClassification(labels=("B-LOC", "B-PER", "I-LOC", "I-PER", "O")),
        tagged,
        transformers.BertForTokenClassification,
        5,
    ),
    "labels": (MultiLabel(label="label", labels=tuple(NAMES)), labels, transformers.BertForSequenceClassification, 3),
    "numbers": (Regress(), numbered, transformers.BertForSequenceClassification, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_a_part_is_a_set_of_its_own(case, bert_tokenizer, tmp_path):
    """Its metrics are those of a file that holds its rows only."""
    task, row, kind, classes = CASES[case]
    rng = np.random.default_rng(1)
    rows = [row(rng, number) for number in range(30)]
    known = {"problem_type": {"labels": "multi_label_classification", "numbers": "regression"}.get(case)}
    model = kind(bert_config(bert_tokenizer, num_labels=classes, **known))
    for number, name in enumerate(task.labels):
        model.config.id2label[number] = name
    model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    directory = str(save_perturbed(model, bert_tokenizer, tmp_path / "model"))
    data = {"val": rows} | {f"part-{part}": [one for one in rows if one["part"] == part] for part in range(3)}
    sets = {name: Eval(data=write(tmp_path / f"{name}.jsonl", some)) for name, some in data.items()}
    cfg = config(directory, sets["val"].data, task, evals=sets)
    alone = evaluate_model(cfg, directory)
    cfg = replace(cfg, evals={"val": sets["val"]})
    found = evaluate_model(cfg, directory, Breakdown(by="part", resamples=100))["val"]
    assert [line["slice"]["value"] for line in found["lines"]] == [0, 1, 2]
    for part, line in enumerate(found["lines"]):
        numbers = alone[f"part-{part}"]
        assert line["rows"] == 10 and len(numbers) > 2
        assert {name: line[name] for name in numbers if name != "loss"} == pytest.approx(
            {name: value for name, value in numbers.items() if name != "loss"}, abs=1e-5
        )
        assert line["interval"].keys() <= numbers.keys() - {"loss"}


def test_slots_of_rows():
    """Rows of one slot, of several, and of several examples that lie apart; each as often as it is drawn."""
    source = np.array([4, 4, 1, 7])  # of four examples
    index = np.array([2, 2, 0, 3, 1, 1, 1])
    kept = GroupedOutputs({"index": index, "x": np.arange(7)}, source[index])
    assert kept.rows.tolist() == [1, 4, 7]
    assert kept.take(np.array([1]))["x"].tolist() == [2, 4, 5, 6]
    assert kept.take(np.array([2, 0, 2, 1]))["x"].tolist() == [3, 0, 1, 3, 2, 4, 5, 6]
    assert kept.take(np.array([2, 0, 2, 1]))["place"].tolist() == [0, 1, 1, 2, 3, 3, 3, 3]
    assert kept.take(np.zeros(0, int))["x"].tolist() == []


def test_bins_of_lengths():
    encoded = SimpleNamespace(source=np.array([0, 0, 2, 3, 4, 5, 6]), lengths=np.array([3, 40, 16, 17, 32, 33, 512]))
    assert lengths_of(encoded, 8) == [64, 0, 16, 32, 32, 64, 512, 0]
    assert [length_name(end) for end in (16, 32, 512)] == ["1-16 tokens", "17-32 tokens", "257-512 tokens"]


def said(run) -> str:
    with pytest.raises(UserError) as error:
        run()
    return "\n".join(error.value.problems)


def test_what_cannot_be_had(measured, texts, tiny_bert, tmp_path):
    assert said(lambda: measured(by="sauce", resamples=7)) == (
        "--bootstrap=7: expected 100 resamples or more, such as 1000\n--by=sauce: config.evals.val has no such column. "
        "Did you mean 'source'? Columns: text, label, source, year, id, many, list, and length"
    )
    assert "120 different values, expected at most 100" in said(lambda: measured(by="id"))
    assert "120 different values" in said(lambda: measured(by="many"))
    assert "column 'list' holds [1], expected a text or a number" in said(lambda: measured(by="list"))
    cfg = config(tiny_bert, write(tmp_path / "texts.jsonl", texts), MaskedLM())
    for detail in (Breakdown(by="source"), Breakdown(resamples=100)):
        assert said(lambda detail=detail: evaluate_model(cfg, str(tiny_bert), detail)) == (
            "--bootstrap and --by are not available for MaskedLM: it keeps sums over the set, not rows"
        )
    assert "--classes is not available for MaskedLM" in said(
        lambda: evaluate_model(cfg, str(tiny_bert), Breakdown(classes=True))
    )
    options = rows_of(
        [{"text": "x", "q": "a", "label": "0", "book": 1}, {"text": "y", "q": "a", "label": "1", "book": 1}]
    )
    task = GroupedVerification(question="{q}")
    assert Breakdown(by="book").problems(task, {"val": options}) == []
    assert Breakdown(by="label").problems(task, {"val": options}) == [
        "--by=label: config.evals.val: rows of 'a' have '0' and '1', expected one"
    ]
    assert Breakdown(by="length").problems(task, {"val": options}) == [
        "--by=length is not available for GroupedVerification, whose questions have rows of several lengths"
    ]
    assert Breakdown(by="source", classes=True).problems(QuestionAnswering(), {}) == [
        "--classes is not available for QuestionAnswering, which does not measure classes one by one",
    ]


def test_values_that_make_the_parts():
    cells = ["a", "a ", "", " ", None, float("nan"), 1, True, "1"]
    assert values_of(rows_of([{"x": cell} for cell in cells]), "x") == ["a", "a", None, None, None, None, 1, True, "1"]


class Screen(io.StringIO):
    """A terminal's stdout."""

    def isatty(self):
        return True


def cells(screen: Screen) -> list[list[str]]:
    lines = [line.replace("│", "┃").split("┃") for line in screen.getvalue().splitlines() if line[:1] in "│┃"]
    return [[re.sub(r"\x1b\[[0-9;]*m", "", cell).strip() for cell in line[1:-1]] for line in lines]


def test_tables_on_a_terminal_and_lines_elsewhere(measured, monkeypatch):
    """The same numbers, to four decimals: metrics with their intervals, classes and averages, slices."""
    found = measured(resamples=100, by="source", classes=True)
    results = {"val": found, "other": {"loss": 0.5, "accuracy": float("nan")}}
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    monkeypatch.setenv("COLUMNS", "400")
    print_evaluation(results)
    table = cells(screen)
    assert table[0] == ["metric", "val", "other"]
    low, high = found["interval"]["accuracy"]
    (accuracy,) = [row for row in table if row[0] == "accuracy"]
    assert accuracy == ["accuracy", f"{found['accuracy']:.4f} [{low:.4f}, {high:.4f}]", "nan"]
    assert ["loss", f"{found['loss']:.4f}", "0.5000"] in table
    for line in found["lines"]:
        if "slice" in line:
            (row,) = [row for row in table if row[:2] == [str(line["slice"]["value"] or ""), str(line["rows"])]]
            low, high = line["interval"]["f1_macro"]
            assert f"{line['f1_macro']:.4f} [{low:.4f}, {high:.4f}]" in row
        else:
            name = line.get("class") or f"{line['average']} average"
            scores = [f"{line[score]:.4f}" for score in ("precision", "recall", "f1")]
            assert [name, str(line["rows"]), *scores] in table
    monkeypatch.setattr(sys, "stdout", piped := io.StringIO())
    print_evaluation(results)
    lines = [json.loads(line) for line in piped.getvalue().splitlines()]
    assert lines[0] == {"split": "val"} | {name: value for name, value in found.items() if name != "lines"}
    assert lines[1:-1] == [{"split": "val"} | line for line in found["lines"]]
    assert lines[-1] == {"split": "other", "loss": 0.5, "accuracy": None}
