"""What predict answers is what evaluation measured: the settings that a model directory carries, and its inputs."""

import json
import logging
import random
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pandas
import pytest
from conftest import TEXTS
from scipy import stats
from seqeval.metrics import f1_score as entity_f1
from sklearn import metrics as sklearn_metrics

import jaxft
from jaxft import bias, predict
from jaxft.cli import command
from jaxft.config import Config, Eval, Mesh
from jaxft.data import Data
from jaxft.evaluation.breakdown import Breakdown
from jaxft.inference.inputs import text_columns
from jaxft.inference.settings import Inference, SpanDecoding, read_inference
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify, MultiLabel, Regress
from jaxft.tasks.contrastive_embedding import ContrastiveEmbedding, Similarity
from jaxft.tasks.multiple_choice import MultipleChoice
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.tasks.token_classification import TokenClassification
from jaxft.text.spans import exact_match
from jaxft.training.export import export_state
from jaxft.training.model_card import cell, code
from jaxft.training.run import precision
from jaxft.training.saved_run import evaluate_all, evaluate_model
from jaxft.training.setup import build

NAMES = ("model", "input", "output", "text", "pair", "decode", "prompt-name", "scores")
FLAGS = [command.Flag(name, "") for name in NAMES]
FLAGS += [command.Flag("batch", "", type=int, default=32), command.Flag("max-len", "", type=int)]
WORDS = " ".join(TEXTS).split()


def rows_of_all_kinds() -> list[dict]:
    """Texts longer than any of the lengths below, with a label of every kind."""
    draw = random.Random(0)
    rows = []
    for number in range(24):
        words = draw.choices(WORDS, k=30)
        start = draw.randrange(20)
        answer = " ".join(words[start : start + 2])
        at = len(" ".join([*words[:start], ""]))
        rows.append(
            {
                "body": " ".join(words),
                "more": " ".join(draw.choices(WORDS, k=20)),
                "class": ("neg", "neu", "pos")[number % 3],
                "several": draw.sample(["a", "b", "c"], draw.randrange(4)),
                "number": draw.random(),
                "words": words,
                "tags": [draw.choice(("O", "B-PER", "I-PER", "B-LOC")) for _ in words],
                "asked": " ".join(draw.choices(WORDS, k=4)),
                "answers": {"text": [answer], "answer_start": [at]} if number % 2 else {"text": [], "answer_start": []},
                "options": [" ".join(draw.choices(WORDS, k=3 + i)) for i in range(3)],
                "right": number % 3,
            }
        )
    return rows


ROWS = rows_of_all_kinds()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


def exported(tmp_path, model, file, task, max_len) -> dict[str, float]:
    """The metrics of a model with its new head, which is then in `tmp_path`/model."""
    cfg = Config(
        model=str(model),
        task=task,
        data=Data(path=file),
        evals={"val": Eval(data=Data(path=file))},
        lr=1e-3,
        batch=8,
        steps=1,
        max_len=max_len,
        mesh=Mesh(data=1),
        export_dtype="float32",
    )
    built = build(cfg)
    with jax.set_mesh(built.mesh), precision(built):
        trained, frozen, _ = built.load()
        trained = {path: 30 * x if path.startswith("head.out") else x for path, x in trained.items()}
        results = evaluate_all(built, trained, frozen, Breakdown())
        export_state(built, {**trained, **frozen}, tmp_path / "model", 1, results)
    assert not predictions_of(tmp_path, file) == []
    return results["val"]


def predictions_of(tmp_path, file, *flags: str) -> list[dict]:
    """The lines that the command writes."""
    line = [f"--model={tmp_path}/model", f"--input={file}", f"--output={tmp_path}/out.jsonl", *flags]
    predict.main(command.parse(line, *FLAGS))
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]


def of(rows, name):
    return [row[name] for row in rows]


def of_labels(rows) -> float:
    names = ["a", "b", "c"]
    found, true = ([[name in row[key] for name in names] for row in rows] for key in ("labels", "several"))
    return sklearn_metrics.f1_score(np.array(true, int), np.array(found, int), average="micro")


def of_spans(rows) -> float:
    return np.mean([exact_match(row["answer"], row["answers"]["text"]) for row in rows])


CASES = {
    "classes of pairs": (
        Classify(text="body", pair="more", label="class"),
        9,
        "accuracy",
        lambda rows: np.mean([row["label"] == row["class"] for row in rows]),
    ),
    "templates": (
        Classify(text="{more}: {body}", label="class"),
        12,
        "accuracy",
        lambda rows: np.mean([row["label"] == row["class"] for row in rows]),
    ),
    "several labels": (MultiLabel(text="body", label="several", thresholds=(0.3, 0.45, 0.6)), 9, "f1_micro", of_labels),
    "numbers": (
        Regress(text="body", label="number"),
        9,
        "mse",
        lambda rows: sklearn_metrics.mean_squared_error(of(rows, "number"), of(rows, "value")),
    ),
    "tags": (
        TokenClassification(words="words", tags="tags", max_lost=1.0),
        20,
        "f1",
        lambda rows: entity_f1(of(rows, "tags"), of(rows, "predicted_tags")),
    ),
    "likeliest sequences of tags": (
        TokenClassification(words="words", tags="tags", max_lost=1.0, decode="viterbi", pieces="last"),
        20,
        "f1",
        lambda rows: entity_f1(of(rows, "tags"), of(rows, "predicted_tags")),
    ),
    "spans": (
        QuestionAnswering(question="asked", context="body", stride=9, max_query_length=3, max_answer_length=4),
        24,
        "exact_match",
        of_spans,
    ),
    "spans above a threshold": (
        QuestionAnswering(question="asked", context="body", stride=4, null_threshold=-0.2),
        30,
        "exact_match",
        of_spans,
    ),
    "choices": (
        MultipleChoice(text="body", choices=("options",), label="right"),
        12,
        "accuracy",
        lambda rows: np.mean([row["choice"] == row["right"] for row in rows]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_predict_answers_what_evaluation_measured(name, tiny_bert, tmp_path, file, one_device):
    task, max_len, metric, measure = CASES[name]
    measured = exported(tmp_path, tiny_bert, file, task, max_len)[metric]
    lines = predictions_of(tmp_path, file)
    assert measure(lines) == pytest.approx(measured, abs=1e-6)
    keys = lines[0].keys() - ROWS[0].keys()
    # The settings matter: read as long as the model takes, the answers are others.
    longer = predictions_of(tmp_path, file, "--max-len=60")
    assert [[line.get(key) for key in keys] for line in lines] != [[line.get(key) for key in keys] for line in longer]
    # Evaluated as a directory, and loaded by `jaxft.load`, it says the same.
    model = jaxft.load(str(tmp_path / "model"))
    inputs = ROWS if "{" in model.inference.columns[0] else pandas.DataFrame(ROWS)
    for answer, line in zip(model.predict(inputs), lines, strict=True):
        for key, value in answer.items():
            found = line["predicted_" + key if key in ROWS[0] else key]
            assert found == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else found)
            assert key not in ("label", "labels", "tags", "answer", "choice") or found == value


@pytest.mark.parametrize(
    "task",
    [
        Similarity(text="body", pair="more", label="number", pooling="first"),
        ContrastiveEmbedding(text="body", pair="more"),
    ],
    ids=["similarity", "contrast"],
)
def test_vectors_are_those_that_were_measured(task, tiny_bert, tmp_path, file, one_device, caplog):
    measured = exported(tmp_path, tiny_bert, file, task, 9)
    first = np.array(of(predictions_of(tmp_path, file), "embedding"))
    assert "body" not in caplog.text
    with caplog.at_level(logging.INFO, "jaxft"):
        second = np.array(of(predictions_of(tmp_path, file, "--text=more"), "embedding"))
    assert "the model was trained with body, it reads more" in caplog.text
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    if isinstance(task, Similarity):
        cosines = np.sum(first * second, 1)
        assert stats.pearsonr(cosines, of(ROWS, "number")).statistic == pytest.approx(measured["pearson"], abs=1e-5)
        return
    scores = first @ second.T
    assert np.mean(scores.argmax(1) == np.arange(len(ROWS))) == pytest.approx(measured["recall@1"])


def test_departures_are_said(tiny_bert, tmp_path, file, one_device, caplog):
    exported(tmp_path, tiny_bert, file, CASES["classes of pairs"][0], 9)
    model = jaxft.load(str(tmp_path / "model"))
    text = (tmp_path / "model/README.md").read_text()
    assert "- longest input: 9 tokens\n- columns: `body`, `more`\n" in text
    assert model.longest == 9
    with caplog.at_level(logging.INFO, "jaxft"):
        model.predict([("the cat", "a log")])
        assert caplog.text == ""
        model.predict(["the cat", ("the cat", "a log")])
        model.predict([("the cat", "a log")], max_length=5)
    assert "1 of 2 inputs are not as in training, where the model read 2 texts together (body, more)" in caplog.text
    assert "not as the model was evaluated: max_length 5 instead of 9" in caplog.text
    caplog.clear()
    rows = Data(path=file).open()
    with caplog.at_level(logging.INFO, "jaxft"):
        assert text_columns(rows, model.inference) == ["body", "more"] and not caplog.text
        assert text_columns(rows, model.inference, pair="") == ["body"]
    assert "the model was trained with body, more, it reads body" in caplog.text
    other = Data(path=str(tmp_path / "other.jsonl"))
    (tmp_path / "other.jsonl").write_text('{"body": "a", "text": "b"}\n')
    with pytest.raises(UserError, match="has no column 'more' with which the model was trained"):
        text_columns(other.open(), model.inference)
    single = replace(model.inference, columns=("review",))
    caplog.clear()
    assert text_columns(other.open(), single) == ["text"]
    assert "the model was trained with review, it reads text" in caplog.text
    with pytest.raises(UserError, match="sequence-classification takes no 'decode'"):
        model.predict(["a"], decode="viterbi")


def test_evaluating_with_another_length_is_said(tiny_bert, tmp_path, file, one_device, caplog):
    task = CASES["classes of pairs"][0]
    exported(tmp_path, tiny_bert, file, task, 9)
    data = Data(path=file)
    cfg = Config(
        model="x",
        task=task,
        data=data,
        evals={"val": Eval(data=data)},
        lr=1e-3,
        batch=8,
        steps=1,
        max_len=12,
        mesh=Mesh(data=1),
    )
    with caplog.at_level(logging.INFO, "jaxft"):
        evaluate_model(cfg, str(tmp_path / "model"))
    assert "max_length 12 instead of 9" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "jaxft"):
        evaluate_model(replace(cfg, max_len=9, task=replace(task, pair=None)), str(tmp_path / "model"))
    assert "columns ('body',) instead of ('body', 'more')" in caplog.text and "max_length" not in caplog.text


def test_bias_and_explain_read_inputs_likewise(tiny_bert, tmp_path, file, one_device, capsys):
    exported(tmp_path, tiny_bert, file, CASES["classes of pairs"][0], 9)
    (tmp_path / "swaps.tsv").write_text("term\tother\nthe\ta\n")
    given = {"model": str(tmp_path / "model"), "input": file, "text": None, "pair": None, "batch": 8}
    swaps = {"swaps": str(tmp_path / "swaps.tsv"), "output": str(tmp_path / "bias.jsonl"), "label": "class"}
    bias.main(SimpleNamespace(**given, **swaps))
    lines = [json.loads(line) for line in (tmp_path / "bias.jsonl").read_text().splitlines()]
    answers = {line["body"]: line["label"] for line in predictions_of(tmp_path, file)}
    assert lines and all(len(line["texts"]) == 2 and line["label"] == answers[line["texts"][0]] for line in lines)
    model = jaxft.load(str(tmp_path / "model"))
    one = jaxft.explain(model, ROWS[0], method="occlusion")
    assert one.texts == (ROWS[0]["body"], ROWS[0]["more"]) and len(one.tokens) == 9
    assert one.predicted == answers[ROWS[0]["body"]]


def test_a_directory_without_the_file(tiny_classifier, one_device, caplog):
    with caplog.at_level(logging.INFO, "jaxft"):
        model = jaxft.load(str(tiny_classifier))
    assert f"{tiny_classifier} has no jaxft.json" in caplog.text
    assert model.longest == 64 and model.inference == Inference(head="sequence-classification")


def test_one_text_has_one_answer(tiny_classifier, one_device):
    model = jaxft.load(str(tiny_classifier))
    (expected,) = model.predict(["the cat sat"])
    texts = ["the cat sat", "a good film"]
    both = model.predict(texts)
    for asked in ("the cat sat", {"text": "the cat sat"}, np.array(["the cat sat"]), np.str_("the cat sat")):
        assert model.predict(asked) == [expected]
    for asked in (
        pandas.Series(texts, index=[7, 3]),
        np.array(texts),
        iter(texts),
        [{"text": text} for text in texts],
        pandas.DataFrame({"text": texts}),
        dict.fromkeys(texts, 1).keys(),
    ):
        assert model.predict(asked) == both
    pair = ("the cat", "sat on the mat")
    assert model.predict(pair) == model.predict([pair]) == model.predict([list(pair)]) != model.predict([pair[0]])
    one = jaxft.explain(model, "the cat sat", method="occlusion")
    (same,) = jaxft.explain(model, pandas.Series(["the cat sat"]), method="occlusion")
    assert one.predicted == expected["label"] and one.numbers() == same.numbers()
    assert jaxft.explain(model, {"text": "the cat sat"}, method="occlusion").numbers() == one.numbers()


def test_what_is_no_text_is_refused(tiny_classifier, one_device):
    model = jaxft.load(str(tiny_classifier))
    for asked, message in {
        b"bytes": "expected a text, or a list of texts, not b'bytes'",
        7: "not 7",
        (7,): r"input 1: found \(7,\), expected a text, a tuple of texts, or a dict",
        None: "not None",
    }.items():
        with pytest.raises(UserError, match=message):
            model.predict(asked)
    with pytest.raises(UserError, match="input 2: found None(.|\n)*input 3: found 'xxx|input 2: found None"):
        model.predict(["a", None])
    with pytest.raises(UserError, match=r"input 2: the row has no 'text', which the model reads. Did you mean 'texts'"):
        model.predict(["a", {"texts": "b"}])
    with pytest.raises(UserError) as found:
        model.predict(["a", ["b" * 10**6, 3]])
    assert len(str(found.value)) < 300


def test_a_file_of_settings(tmp_path):
    """It is read as it was written; one that is damaged, of another version or too large is refused."""
    for made in (
        Inference(head="none"),
        Inference(
            head="question-answering",
            task="Answer",
            max_length=384,
            columns=("q", "c"),
            decoding=SpanDecoding(stride=7, null_threshold=-0.5),
        ),
        Inference(head="sequence-classification", max_length=9, columns=("{a}: {b}",)),
    ):
        (tmp_path / "jaxft.json").write_text(made.to_json())
        assert read_inference(tmp_path / "jaxft.json") == made
    wrong = {
        "[]": "expected an object with a version",
        '{"head": "none"}': "expected an object with a version",
        '{"version": 2, "head": "none"}': "written by another version of jaxft",
        '{"version": 1}': "needs a value for 'head'",
        '{"version": 1, "head": "none", "max_lenght": 3}': "no field 'max_lenght'. Did you mean 'max_length'",
        '{"version": 1, "head": "none", "max_length": "9"}': "max_length is '9'",
        '{"version": 1, "head": "none", "max_length": 0}': "max_length is 0, expected 1 or more, or None",
        '{"version": 1, "head": "none", "columns": [1]}': r"columns is \(1,\)",
        '{"version": 1, "head": "masked-lm", "decoding": {}}': "the head 'masked-lm' has no decoding",
        '{"version": 1, "head": "token-classification", "decoding": {"decode": "beam"}}': "decode is 'beam', expected",
        '{"version": 1, "head": "token-classification", "decoding": []}': r"decoding: expected an object, found \[\]",
        '{"version": 1, "head": "sequence-classification", "decoding": {"thresholds": [2]}}': "thresholds holds 2",
        '{"version": 1, "head": NaN}': "cannot be read",
        '{"version": 1, ' + " " * 10**6: "more than 1,000,000 bytes",
    }
    for text, message in wrong.items():
        (tmp_path / "jaxft.json").write_text(text)
        with pytest.raises(UserError, match=message):
            read_inference(tmp_path / "jaxft.json")


@pytest.mark.parametrize("name", ["a", "a`b", "``", "[x](javascript:1)", "<script>", "a\n# b", "*x*", "a|b", "x" * 500])
def test_names_in_markdown_are_code(name):
    """As CommonMark reads it, a name is one code span, whatever it holds; it does not end a table's cell."""
    from markdown_it import MarkdownIt

    wanted = " ".join(name.split())
    wanted = wanted if len(wanted) <= 200 else wanted[:197] + "..."
    (_, inline, _) = MarkdownIt().parse(f"x {code(name)} y")
    before, span, after = inline.children
    assert (span.type, span.content, before.content, after.content) == ("code_inline", wanted, "x ", " y")
    table = MarkdownIt().enable("table").parse(f"| a | b |\n|---|---|\n| {cell(name)} | 1 |")
    cells = [token.children for token in table if token.type == "inline"]
    assert [child.content for child in cells[2] if child.type == "code_inline"] == [wanted]
    assert [child.content for child in cells[3]] == ["1"]
