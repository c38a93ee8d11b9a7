"""report.html: what it says of a run, by other computations; that it is there however a run ends, and whole."""

import json
import logging
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
import transformers
from runs import WORDS
from sklearn import metrics as sklearn

from jaxft.config import Config, Eval, Save
from jaxft.data import Data, Pad
from jaxft.problems import RunStopped
from jaxft.reports import report
from jaxft.reports.figures import (
    MAX_CLASSES,
    MAX_POINTS,
    MAX_ROWS,
    answer_figures,
    choice_figures,
    class_figures,
    label_figures,
    value_figures,
)
from jaxft.reports.records import read_lines
from jaxft.reports.report import Report, write
from jaxft.tasks.classify import Classify, MultiLabel, Regress
from jaxft.tasks.mlm import MaskedLM
from jaxft.training import loop as module
from jaxft.training.fit import fit
from jaxft.tune.partial import Partial

NAMES = ["\"'&amp;<b>", "</script><script>alert(1)</script>", "ünï 漢字"]  # sorted


class Tables(HTMLParser):
    """`found`: caption -> rows of cells as a browser shows them; `tags`: how often each occurs."""

    def __init__(self, text: str):
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.cell, self.tags = None, Counter()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        if tag in ("caption", "th", "td"):
            self.cell = ""
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag == "caption":
            self.rows = self.found[self.cell] = []
        elif tag in ("th", "td"):
            self.rows[-1].append(self.cell)
        if tag in ("caption", "th", "td"):
            self.cell = None


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def tables(workdir) -> dict[str, list[list[str]]]:
    return Tables((Path(workdir) / "report.html").read_text()).found


def write_rows(path, count: int, label, seed=0) -> None:
    """Random words; every seventh row has no label."""
    rng = np.random.default_rng(seed)
    with open(path, "w") as file:
        for number in range(count):
            text = " ".join(rng.choice(WORDS, rng.integers(3, 24)))
            file.write(json.dumps({"text": text, "label": None if number % 7 == 6 else label(rng)}) + "\n")


def config(model, folder, label=lambda rng: str(rng.choice(NAMES)), **more) -> Config:
    """Eight steps, logged every two, evaluated every four."""
    write_rows(folder / "train.jsonl", 30, label)
    write_rows(folder / "val.jsonl", 40, label, seed=1)
    options = {
        "task": Classify(),
        "steps": 8,
        "lr": 3e-3,
        "batching": Pad(buckets=(16,)),
        "evals": {"val": Eval(data=Data(path=str(folder / "val.jsonl")), every=4)},
    }
    data = Data(path=str(folder / "train.jsonl"))
    return Config(model=str(model), data=data, batch=4, max_len=16, log_every=2, **options | more)


@pytest.fixture(scope="module")
def run(tiny_bert, tmp_path_factory):
    """Three classes with unpleasant names; the last layer and the head are trained; the best step is not the last."""
    folder, there, plain = tmp_path_factory.mktemp("folder"), [], module.after_step
    workdir = folder / "<i>run & co"

    def after_step(run):
        plain(run)
        there.append((workdir / "report.html").exists())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda *backend: 1)
        patch.setattr(module, "after_step", after_step)
        save = Save(every=4, best="val/loss")
        cfg = config(tiny_bert, folder, tune=Partial(last_layers=1), save=save, lr=3e-2)
        # It learns that nearly all texts are of one class, so that its loss on the others grows.
        write_rows(folder / "train.jsonl", 30, lambda rng: str(rng.choice(NAMES, p=[0.1, 0.1, 0.8])))
        fit(cfg, str(workdir))
    sets = [rows_of(folder / name) for name in ("train.jsonl", "val.jsonl")]
    text = (workdir / "report.html").read_text()
    return SimpleNamespace(workdir=workdir, sets=sets, text=text, tables=Tables(text).found, there=there)


def test_evaluation(run):
    """By scikit-learn from PyTorch's answers."""
    rows = [row for row in run.sets[1] if row["label"] is not None]
    truth, guesses = [NAMES.index(row["label"]) for row in rows], answers(run.workdir / "model", rows)
    wanted = sklearn.confusion_matrix(truth, guesses, labels=range(3))
    (caption,) = [caption for caption in run.tables if caption.startswith("Confusion matrix")]
    _, header, *cells = run.tables[caption]
    assert header == ["true class", *NAMES]
    assert cells == [[name, *map(str, counts)] for name, counts in zip(NAMES, wanted, strict=True)]
    scores = sklearn.precision_recall_fscore_support(truth, guesses, labels=range(3), zero_division=np.nan)
    header, *cells = run.tables["Classes"]
    assert header == ["class", "true", "predicted", "precision", "recall", "F1"]
    for row, name, column, *measured, support in zip(cells, NAMES, wanted.T, *scores, strict=True):
        shown = [f"{score:.4f}" if np.isfinite(score) else "–" for score in measured]
        assert row == [name, str(support), str(column.sum()), *shown]
    assert ["accuracy", f"{sklearn.accuracy_score(truth, guesses):.4f}"] in run.tables["Final metrics"]


def answers(model, rows) -> list[int]:
    """Class numbers, by PyTorch."""
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    batch = tokenizer([row["text"] for row in rows], truncation=True, max_length=16, padding=True, return_tensors="pt")
    with torch.no_grad():
        return theirs(**batch).logits.argmax(-1).tolist()


def test_the_best_model(run):
    """Final metrics and pictures are those of the step that model/ holds, not the last one's."""
    first, last = (line for line in read_lines(run.workdir / "metrics.jsonl") if line["split"] == "val")
    assert (first["step"], last["step"]) == (4, 8) and first["loss"] < last["loss"] - 0.01
    assert "model/ holds step 4, the best by val/loss." in run.text and "<small>at step 4</small>" in run.text
    assert ["loss", f"{first['loss']:.4f}"] in run.tables["Final metrics"]


def test_data(run, bert_tokenizer):
    """By counting rows, and by the tokenizer."""
    facts = {row[0]: row[1:] for row in run.tables["Data"]}
    kept = [[row for row in rows if row["label"] is not None] for rows in run.sets]
    sizes = [np.array([len(bert_tokenizer(row["text"])["input_ids"]) for row in rows]) for rows in kept]
    assert facts["rows read"] == ["30", "40"] and facts["examples"] == ["26", "35"]
    assert facts["rows left out: no label"] == ["4", "5"]
    assert facts["tokens"] == [str(np.minimum(size, 16).sum()) for size in sizes]
    assert facts["examples cut off at config.max_len"] == [str((size > 16).sum()) for size in sizes]
    counts = [Counter(row["label"] for row in rows) for rows in kept]
    assert run.tables["Targets"] == [
        ["target", "train", "val"],
        *([name, *(str(count[name]) for count in counts)] for name in NAMES),
    ]
    padding = dict(run.tables["What trains"])["padding"]
    # Seven batches of four: two of the 26 examples are seen twice.
    assert float(padding.partition("%")[0]) == pytest.approx(100 * (1 - np.minimum(sizes[0], 16).mean() / 16), abs=4)


def test_what_trains(run):
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(run.workdir / "model")
    sizes = {name: parameter.numel() for name, parameter in theirs.named_parameters()}
    trained = sum(size for name, size in sizes.items() if any(p in name for p in ("layer.2.", "pooler", "classifier")))
    share = trained / sum(sizes.values())
    facts = dict(run.tables["What trains"])
    assert facts["parameters that train"] == f"{trained:,} ({share:.1%})"
    assert facts["frozen parameters"] == f"{sum(sizes.values()) - trained:,}"


def test_configuration_versions_and_state(run):
    settings = dict(run.tables["As resolved, defaults included (config.json)"])
    assert settings["lr"] == "0.03" and settings["task"] == "jaxft.tasks.classify:Classify"
    assert settings["evals.val.every"] == "4" and settings["tune.last_layers"] == "1"
    assert f"transformers {transformers.__version__}" in run.text and f"jax {jax.__version__}" in run.text
    assert "Complete: step 8 of 8" in run.text


def test_curves(run):
    """What the script gets is what was logged; a table has it too."""
    lines = read_lines(run.workdir / "metrics.jsonl")
    data = json.loads(run.text.partition('id="data">')[2].partition("</script>")[0])
    for metric, drawing in zip(
        ("loss", "learning_rate", "grad_norm", "tokens_per_second"), data["drawings"], strict=False
    ):
        train = [line for line in lines if line["split"] == "train"]
        assert drawing["series"][0]["x"] == [2, 4, 6, 8]
        np.testing.assert_allclose(drawing["series"][0]["y"], [line[metric] for line in train], rtol=1e-5)
    val = [line["loss"] for line in lines if line["split"] == "val"]
    assert data["drawings"][0]["series"][1]["x"] == [4, 8]
    np.testing.assert_allclose(data["drawings"][0]["series"][1]["y"], val, rtol=1e-5)
    header, *rows = run.tables["train: 4 lines of metrics.jsonl"]
    assert [row[0] for row in rows] == ["2", "4", "6", "8"]
    assert [row[header.index("loss")] for row in rows] == [f"{line['loss']:.4f}" for line in train]


def test_nothing_that_was_given_is_markup(run):
    """The page has its own two scripts, and no tag of a name or a path."""
    tags = Tables(run.text).tags
    assert tags["script"] == 2 and tags["i"] == 0 and tags["b"] == run.text.count('<b id="title')
    assert "<script>alert" not in run.text and run.text.count("&lt;i&gt;run &amp; co") == 2


def test_the_page_is_there_early_and_whole(run):
    """From the first log point on: a run that is killed leaves it."""
    assert run.there == [False, *[True] * 7]
    assert not list(run.workdir.glob("*.partial"))
    first = run.text.index("<!DOCTYPE html>")
    assert run.text[:first].strip() == "" and run.text.endswith("</html>")


@pytest.mark.parametrize(
    "task, label, kinds",
    [
        (Regress(), lambda rng: float(rng.normal()), ["scatter"]),
        (MultiLabel(label="label"), lambda rng: list(rng.choice(NAMES, rng.integers(0, 3))), ["table"]),
        (MaskedLM(), lambda rng: "", None),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "head") else "",
)
def test_every_task_has_its_own_picture(tiny_bert, tmp_path, one_device, task, label, kinds):
    fit(config(tiny_bert, tmp_path, label, task=task), str(tmp_path / "run"))
    pictures = read_lines(tmp_path / "run" / "pictures.jsonl")
    assert [(line["step"], line["split"]) for line in pictures] == ([(4, "val"), (8, "val")] if kinds else [])
    assert all([figure["figure"] for figure in line["figures"]] == kinds for line in pictures)
    found, rows = tables(tmp_path / "run"), rows_of(tmp_path / "val.jsonl")
    if isinstance(task, Regress):
        points = np.array(pictures[-1]["figures"][0]["points"])
        given = [row["label"] for row in rows if row["label"] is not None]
        np.testing.assert_allclose(sorted(points[:, 0]), sorted(given), rtol=1e-4)
        mse = [float(row[1]) for row in found["Final metrics"] if row[0] == "mse"]
        assert np.mean((points[:, 0] - points[:, 1]) ** 2) == pytest.approx(mse[0], abs=1e-4)
        assert found["Targets"][1][2] == f"{min(given):.4f}"
    elif isinstance(task, MultiLabel):
        counts = Counter(name for row in rows for name in set(row["label"] or []))
        assert {row[0]: row[1] for row in found["Labels"][1:]} == {name: str(counts[name]) for name in NAMES}
    else:
        assert ["perplexity"] == [row[0] for row in found["Final metrics"] if row[0] == "perplexity"]
        assert "Targets" not in found


def test_figures():
    """By scikit-learn; they stay small however many classes and examples there are."""
    rng = np.random.default_rng(0)
    truth, guesses = rng.integers(0, 2, (2, 50, 4))
    truth[:, 2] = guesses[:, 3] = 0
    (table,) = label_figures(truth, guesses, list("abcd"))
    scores = sklearn.precision_recall_fscore_support(truth, guesses, zero_division=np.nan)
    expected = [
        None if np.isnan(score) else pytest.approx(score, abs=1e-6) for score in np.stack(scores[:3], 1).ravel()
    ]
    assert [cell for row in table["rows"] for cell in row[3:]] == expected
    names = [f"class {number}" for number in range(MAX_CLASSES + 300)]
    truth, guesses = rng.integers(0, len(names), 5000), rng.zipf(1.5, 5000) % len(names)
    mistakes, classes = class_figures(truth, guesses, names)
    counts = Counter((names[a], names[b]) for a, b in zip(truth, guesses, strict=True) if a != b)
    assert [row[2] for row in mistakes["rows"]] == [count for _, count in counts.most_common(MAX_ROWS)]
    assert all(counts[row[0], row[1]] == row[2] for row in mistakes["rows"])
    assert mistakes["rows"][0][3] == pytest.approx(
        mistakes["rows"][0][2] / np.sum(truth == int(mistakes["rows"][0][0][6:]))
    )
    assert (
        classes["title"] == f"Classes: the {MAX_ROWS} most common of {len(names)}" and len(classes["rows"]) == MAX_ROWS
    )
    values = rng.standard_normal((2, 100_000))
    values[0, 7] = np.nan
    (cloud,) = value_figures(*values)
    assert len(cloud["points"]) == MAX_POINTS and cloud["title"].endswith("1,000 of 100,000 examples")
    few = truth % MAX_CLASSES, guesses % MAX_CLASSES
    matrix, table = class_figures(*few, names[:MAX_CLASSES])
    assert matrix["counts"] == sklearn.confusion_matrix(*few, labels=range(MAX_CLASSES)).tolist()
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(*few)
    found = np.array([row[1:] for row in table["rows"]])
    expected = [support, np.bincount(few[1], minlength=MAX_CLASSES), precision, recall, f1]
    np.testing.assert_allclose(found, np.stack(expected, 1), atol=1e-6)


def test_figures_of_choices():
    """Questions of two to five choices, each with a number of its own."""
    rng = np.random.default_rng(0)
    scores = [rng.standard_normal(count) for count in rng.integers(2, 6, 50)]
    right = [rng.integers(len(some)) for some in scores]
    marks = np.concatenate([np.eye(len(some))[number] for some, number in zip(scores, right, strict=True)])
    index = np.repeat(rng.permutation(50), [len(some) for some in scores])
    (found,) = choice_figures(marks, np.concatenate(scores), index)
    expected = sklearn.confusion_matrix(right, [some.argmax() for some in scores], labels=range(5))
    assert found["counts"] == expected.tolist() and found["names"] == ["0", "1", "2", "3", "4"]
    assert choice_figures(np.eye(MAX_CLASSES + 1)[0], np.zeros(MAX_CLASSES + 1), np.zeros(MAX_CLASSES + 1, int)) == []


def test_figures_of_answers():
    questions, golds = ["who?", "where?", "when?", "why?"], [["the cat", "cat"], [], [], ["rain"]]
    given, f1 = ["cat", "here", "", ""], np.array([1.0, 0.0, 1.0, 0.0])
    matrix, table = answer_figures(questions, golds, given, f1)
    assert matrix["names"] == ["an answer", "none"] and matrix["counts"] == [[1, 1], [1, 1]]
    assert table["rows"] == [["where?", None, "here", 0.0], ["why?", "rain", None, 0.0]]
    assert table["title"].endswith("2 of 2, of 4 questions")
    assert answer_figures(questions[:1], golds[:1], given[:1], f1[:1]) == []
    (many,) = answer_figures(["who?"] * 500, [["x"]] * 500, ["y"] * 500, np.zeros(500))
    assert len(many["rows"]) == MAX_ROWS and many["title"].endswith("100 of 500, of 500 questions")


def test_a_run_that_stops(tiny_bert, tmp_path, one_device):
    class Broken(Classify):
        def loss(self, out, batch):
            mean = Classify.loss(self, out, batch)["loss"]
            return {"loss": mean._replace(total=mean.total * float("nan"))}

    with pytest.raises(RunStopped):
        fit(config(tiny_bert, tmp_path, task=Broken()), str(tmp_path / "run"))
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Ended at step 2 of 8: the loss or its gradient was NaN or infinite in 2 of the steps" in text
    assert "no finite value" in text


def test_a_page_that_fails_does_not_stop_the_run(tiny_bert, tmp_path, one_device, monkeypatch, caplog):
    """Nor does it damage the one that is there. Once its cause is gone, the same command makes the page."""
    cfg = config(tiny_bert, tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").write_text("the former page")

    def page(*args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "jaxft"):
        patch.setattr(report, "page", page)
        results = fit(cfg, str(tmp_path / "run")).metrics
    assert "report.html could not be written" in caplog.text and results["val"]["accuracy"] >= 0
    assert (tmp_path / "run" / "report.html").read_text() == "the former page"
    (tmp_path / "run" / "report.html").unlink()
    fit(cfg, str(tmp_path / "run"))
    assert "Complete: step 8 of 8" in (tmp_path / "run" / "report.html").read_text()


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    made = Report(tmp_path, {})
    made.open(0)
    made.draw(1, "val", [{}])
    with made.at_the_end():
        made.refresh()
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_how_often_the_page_is_made(tmp_path, monkeypatch):
    """So that it takes a thousandth of the run at most."""
    now, written = [100.0], []

    def write(workdir):
        now[0] += 0.5
        written.append(now[0])

    monkeypatch.setattr(report, "write", write)
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    made = Report(tmp_path, {})
    for _ in range(3000):
        made.refresh()
        now[0] += 1
    assert [round(b - a) for a, b in zip(written, written[1:], strict=False)] == [502] * (len(written) - 1)
    assert len(written) == 6


def test_a_long_run(run, tmp_path):
    """20,000 log points and 1,000 evaluations: the page stays small. It is made anew from the files alone."""
    for name in ("config.json", "summary.json", "pictures.jsonl"):
        (tmp_path / name).write_bytes((run.workdir / name).read_bytes())
    facts = json.loads((tmp_path / "summary.json").read_text())
    # As a file name that is not UTF-8 reaches Python.
    facts |= {"model_step": None, "model_score": None, "ended": "OSError: caf\udce9"}
    (tmp_path / "summary.json").write_text(json.dumps(facts))
    train, *_ = read_lines(run.workdir / "metrics.jsonl")
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for step in range(1, 20_001):
            file.write(json.dumps(train | {"step": step, "loss": 2 + np.sin(step)}) + "\n")
            if step % 20 == 0:
                file.write(json.dumps({"step": step, "split": "val", "loss": 2.5, "accuracy": step / 20_000}) + "\n")
        file.write('{"step": 20001, "spl')  # the process was killed here
    write(tmp_path)
    text = (tmp_path / "report.html").read_bytes()
    assert len(text) < 300_000 and b"Ended at step 20,000 of 8: OSError: caf?" in text
    assert len(tables(tmp_path)["val: 50 of 1,000 lines of metrics.jsonl"]) == 51
