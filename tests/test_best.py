"""The best checkpoint: what each task's metrics are, which way they are better, and what is never the best."""

import importlib
import inspect
import json
import math
import pkgutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

import jaxft.tasks
from jaxft.config import Config, Eval, Mesh, Save
from jaxft.config.component import config
from jaxft.data import Data
from jaxft.evaluation.breakdown import Breakdown
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify, MultiLabel, Regress
from jaxft.tasks.cloze import Cloze
from jaxft.tasks.contrastive_embedding import ContrastiveEmbedding, Similarity, Triplet
from jaxft.tasks.denoise import Denoise
from jaxft.tasks.entity_spans import EntitySpans
from jaxft.tasks.grouped_verification import GroupedVerification
from jaxft.tasks.lm import CausalLM
from jaxft.tasks.mlm import MaskedLM
from jaxft.tasks.multiple_choice import MultipleChoice
from jaxft.tasks.pretrain import NextSentence, SentenceOrder
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.tasks.replaced_tokens import ReplacedTokens
from jaxft.tasks.span_corruption import SpanCorruption
from jaxft.tasks.token_classification import TokenClassification
from jaxft.training.best import Best, ranking
from jaxft.training.checkpoint import KeepBestAndLast
from jaxft.training.fit import fit
from jaxft.training.saved_run import evaluate_all, evaluate_run
from jaxft.training.setup import build

TEXTS = ["the cat sat on the mat", "a good film with a story", "the dog sat on the log", "a dull film"]


def rows_of(**columns) -> list[dict]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


SPANS = rows_of(
    question=["where"] * 3,
    context=["on the mat", "on the log", "a film"],
    answers=[
        {"text": ["the mat"], "answer_start": [3]},
        {"text": [], "answer_start": []},
        {"text": ["film"], "answer_start": [2]},
    ],
)
LABELLED = rows_of(text=TEXTS, label=["x", "y", "x", "y"])
TAGGED = rows_of(
    tokens=[text.split() for text in TEXTS],
    ner_tags=[["B-A/B", *["O"] * 3, "I-C", "O"], ["O"] * 6, ["O", "B-C", *["O"] * 4], ["B-C", "I-C", "O"]],
)
MARKED = rows_of(
    text=TEXTS, spans=[[{"start": 0, "end": len(text.split()[0]), "label": "A"}] for text in TEXTS[:3]] + [[]]
)
VECTORS = rows_of(anchor=TEXTS, positive=TEXTS[::-1], negative=TEXTS[1:] + TEXTS[:1])
# Task, its model's fixture, the rows.
CASES = {
    "two classes": (Classify(), "tiny_bert", LABELLED),
    "three classes, weighted": (
        Classify(class_weights="balanced"),
        "tiny_bert",
        rows_of(text=TEXTS, label=["x", "y", "z", "x"]),
    ),
    "no class twice": (Classify(labels=("x", "y")), "tiny_bert", LABELLED[:1]),  # no AUROC
    "several labels": (MultiLabel(), "tiny_bert", rows_of(text=TEXTS, labels=["x|y", "y", "z", ""])),
    "several labels, tuned": (
        MultiLabel(thresholds="val", pos_weight=(1.0, 2.0, 3.0)),
        "tiny_bert",
        rows_of(text=TEXTS, labels=["x|y", "y", "z", ""]),
    ),
    "a number": (Regress(), "tiny_bert", rows_of(text=TEXTS, label=[0.5, 1.0, -1.0, 0.0])),
    "verified": (
        GroupedVerification(),
        "tiny_bert",
        [row | {"question": str(i // 2)} for i, row in enumerate(LABELLED)],
    ),
    "cloze": (
        Cloze(),
        "tiny_bert",
        rows_of(passage=TEXTS, query=["a @placeholder"] * 4, entities=[["cat", "dog"]] * 4, answers=[["cat"]] * 4),
    ),
    "choice": (MultipleChoice(), "tiny_bert", rows_of(question=TEXTS, choices=[["a", "b"]] * 4, label=[0, 1, 0, 1])),
    "spans": (QuestionAnswering(stride=2), "tiny_bert", SPANS),
    "spans, all with answers": (QuestionAnswering(stride=2), "tiny_bert", SPANS[::2]),
    "entities": (TokenClassification(), "tiny_bert", TAGGED),
    "tags": (TokenClassification(scheme="none"), "tiny_bert", TAGGED),
    "entity spans": (EntitySpans(), "tiny_bert", MARKED),
    "contrast": (ContrastiveEmbedding(), "tiny_bert", VECTORS),
    "triplets": (Triplet(matryoshka=(8,)), "tiny_bert", VECTORS),
    "similarity": (Similarity(), "tiny_bert", rows_of(sentence1=TEXTS, sentence2=TEXTS[::-1], score=[0, 1, 0.5, 0.2])),
    "masked": (MaskedLM(rate=0.5), "tiny_bert", LABELLED),
    "causal": (CausalLM(), "tiny_gpt2", LABELLED),
    "next sentence": (NextSentence(), "pretraining_bert", LABELLED),
    "sentence order": (SentenceOrder(), "pretraining_bert", LABELLED),
    "replaced": (ReplacedTokens(), "detector", LABELLED),
    "corrupted": (SpanCorruption(), "tiny_t5", LABELLED),
    "denoised": (Denoise(), "tiny_bart", LABELLED),
}


def written(path, rows) -> Data:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(path=str(path))


def config_of(model, task, data, **more) -> Config:
    values = {"lr": 1e-3, "batch": 4, "steps": 4, "max_len": 32, "mesh": Mesh(data=1), "init": "backbone"}
    return Config(model=str(model), task=task, data=data, evals={"val": Eval(data=data)}, **values | more)


def test_every_task_has_a_case():
    modules = [importlib.import_module(f"jaxft.tasks.{one.name}") for one in pkgutil.iter_modules(jaxft.tasks.__path__)]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and hasattr(value, "head")
        and hasattr(value, "__dataclass_fields__")
    }
    assert found == {type(task) for task, *_ in CASES.values()}


@pytest.mark.parametrize("case", CASES)
def test_evaluation_gives_what_is_declared(case, request, tmp_path, one_device):
    task, model, rows = CASES[case]
    built = build(config_of(request.getfixturevalue(model), task, written(tmp_path / "rows.jsonl", rows)))
    trained, frozen, _ = built.load()
    found, declared = evaluate_all(built, trained, frozen, Breakdown())["val"], built.task.metrics()
    found = {name for name in found if not name.startswith("baseline_") and name != "positive_class"}
    assert found <= declared.keys()
    assert all(declared[name].needs for name in declared.keys() - found)
    for name, metric in declared.items():
        errors = ("loss", "perplexity", "bits_per_byte", "brier", "calibration_error", "mse", "mae")
        better = "min" if name.endswith(errors) else None if name.endswith("_total") or "_thresh" in name else "max"
        assert metric.better == better, name


def test_names_are_checked_and_directions_are_the_tasks(caplog):
    task = Classify(labels=("x", "y", "z"), label_smoothing=0.1)

    def ranked(best, mode=None):
        return ranking(SimpleNamespace(save=Save(best=best, mode=mode)), task)

    assert ranked("val/brier") == Best("val/brier", "min") and ranked("eval_loss/f1_macro").mode == "max"
    assert ranked("valid2_loss/weighted_loss").mode == "min" and ranked(None) == Best()
    with pytest.raises(UserError, match="no 'acc' with these labels. Did you mean 'val/accuracy'. Metrics of val: "):
        ranked("val/acc")
    with pytest.raises(UserError, match="gives no 'f1' with these labels.*f1_macro, f1_weighted"):
        ranked("val/f1")
    assert not caplog.records
    assert ranked("val/loss", "max").mode == "max"
    assert "the best is the maximum of val/loss, of which smaller is better" in caplog.text
    assert ranked("val/auroc").mode == "max" and "val/auroc is there only if val has rows of a class" in caplog.text
    entities = TokenClassification(labels=("O", "B-A/B", "I-A/B"))
    assert ranking(SimpleNamespace(save=Save(best="val/f1_A/B")), entities) == Best("val/f1_A/B", "max")
    with pytest.raises(UserError, match="neither better large nor small"):
        ranking(SimpleNamespace(save=Save(best="val/best_f1_thresh")), QuestionAnswering())


def test_what_is_not_finite_never_wins():
    scores = {1: math.nan, 2: 0.5, 3: math.inf, 4: None, 5: 0.5, 6: -math.inf, 7: 0.7}
    assert Best("val/loss", "min").step(scores) == 2 and Best("val/f1", "max").step(scores) == 7
    assert Best("val/loss", "min").step({1: math.nan, 2: None}) is None and Best().step(scores) is None
    kept = [SimpleNamespace(step=step, metrics={"val/loss": score}) for step, score in scores.items()]
    policy = KeepBestAndLast(2, Best("val/loss", "min"))
    assert [one.step for one, stays in zip(kept, policy.should_preserve(kept), strict=True) if stays] == [2, 7]


@config
class Undefined(Classify):
    """Classify, whose accuracy is what SCORES say of each evaluation."""

    def compute_metrics(self, sums, kept):
        return Classify.compute_metrics(self, sums, kept) | {"accuracy": SCORES.pop(0)}


SCORES: list[float] = []


@pytest.mark.parametrize(("given", "best"), [((math.nan, 0.5, 0.25, math.nan), 2), ((math.nan,) * 4, None)])
def test_a_run_with_undefined_scores(given, best, tiny_bert, tmp_path, one_device, caplog):
    caplog.set_level("INFO")
    SCORES[:] = given
    cfg = config_of(tiny_bert, Undefined(), written(tmp_path / "rows.jsonl", LABELLED))
    cfg = replace(cfg, save=Save(every=1, keep=1, best="val/accuracy"))
    fit(cfg, str(tmp_path / "run"))
    assert "step 1: val/accuracy is nan, so that this checkpoint cannot be the best" in caplog.text
    page, summary = (
        (tmp_path / "run" / "report.html").read_text(),
        json.loads((tmp_path / "run/summary.json").read_text()),
    )
    assert summary["model_step"] == (best or 4) and summary["model_score"] == (0.5 if best else None)
    if best is None:
        assert "no checkpoint has a finite val/accuracy: the newest, of step 4, is taken" in caplog.text
        assert "model/ holds step 4, the newest: no checkpoint has a finite val/accuracy." in page
    else:
        assert "model/ holds step 2, the best by val/accuracy." in page
    fit(cfg, str(tmp_path / "run"))  # complete: the page says the same
    assert (tmp_path / "run" / "report.html").read_text() == page


def test_a_run_begins_with_a_metric_that_there_is(tiny_bert, tmp_path, one_device):
    data = written(tmp_path / "rows.jsonl", LABELLED)
    with pytest.raises(UserError, match="Did you mean 'val/accuracy'"):
        fit(config_of(tiny_bert, Classify(), data, save=Save(best="val/acuracy")), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    cfg = config_of(tiny_bert, Classify(class_weights=(0.5, 3.0)), data, save=Save(best="val/weighted_loss"), steps=2)
    results = fit(cfg, str(tmp_path / "run")).metrics["val"]
    assert results["loss"] != pytest.approx(results["weighted_loss"], rel=1e-3)
    assert evaluate_run(str(tmp_path / "run"), None)["val"]["weighted_loss"] <= results["weighted_loss"]
