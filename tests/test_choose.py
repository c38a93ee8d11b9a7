"""Multiple choice: the choices of a row as parts of one example, the loss beside PyTorch's, and runs to predictions."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
import transformers
from conftest import TEXTS, bert_config, rows_of, save_perturbed
from sklearn.metrics import label_ranking_average_precision_score

import jaxft
from jaxft.config import Config, Eval, Mesh
from jaxft.data import Data, Pack, Pad
from jaxft.data.encoded import encode_all
from jaxft.data.pipeline import Batches, EvalBatches
from jaxft.evaluation.evaluate import evaluate
from jaxft.inference.answer_files import write_answers
from jaxft.inference.inputs import text_columns
from jaxft.metrics import choice_metrics
from jaxft.metrics.units import GroupedOutputs
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.multiple_choice import MultipleChoice
from jaxft.training.compiled import evaluation_step
from jaxft.training.fit import fit
from jaxft.training.saved_run import evaluate_run
from jaxft.training.setup import build
from jaxft.training.step import accumulate

ROWS = [
    {"question": TEXTS[0], "choices": ["the cat", "the log sat on", "a film"], "label": "1"},
    {"question": TEXTS[1], "choices": ["good", "it was raining in the harbour"], "label": "A"},
    {"question": "", "choices": [TEXTS[2], "even", "", "7 is not"], "label": "D"},
    {"question": TEXTS[4], "choices": ["10", "20"], "label": "1"},
    {"question": TEXTS[3], "choices": ["sailors returned", "a dull story and bad", "dog"], "label": "2"},
]


@pytest.fixture(scope="module")
def chooser(tmp_path_factory, bert_tokenizer):
    """Directory of a BertForMultipleChoice with three layers."""
    model = transformers.BertForMultipleChoice(bert_config(bert_tokenizer))
    return save_perturbed(model, bert_tokenizer, tmp_path_factory.mktemp("chooser"))


RIGHT = [1, 0, 3, 1, 2]


def built(chooser, tmp_path, **more):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    cfg = {"lr": 1e-3, "batch": 5, "steps": 1, "max_len": 24, "dropout": 0.0, "dtype": "float32", "mesh": Mesh(data=1)}
    return build(Config(model=str(chooser), task=MultipleChoice(), data=Data(path=str(file)), **(cfg | more)))


def batches_of(made, rows=None) -> Batches:
    """Batches of five examples."""
    task, cfg = made.task, made.cfg
    encoded = encode_all(rows_of(ROWS), lambda some: task.encode(some, made.setting))
    return Batches(encoded, rows or cfg.batching, 5, 0, None, task.max_predictions, cfg.micro_batches, 24, 0)


def on_device(batch: dict) -> dict:
    return {key: value for key, value in batch.items() if key != "index"}


@pytest.fixture(scope="module")
def theirs(chooser, bert_tokenizer) -> list[torch.Tensor]:
    """PyTorch's scores of the choices, row by row, and its model."""
    model = transformers.BertForMultipleChoice.from_pretrained(chooser).eval()
    scores = []
    for row in ROWS:
        pairs = [(row["question"], choice) for choice in row["choices"]]
        given = bert_tokenizer(pairs, padding=True, truncation=True, max_length=24, return_tensors="pt")
        scores.append(model(**{name: array[None] for name, array in given.items()}).logits[0])
    return scores


@pytest.mark.parametrize("rows", [Pad(buckets=(128,)), Pack(length=128), Pack(length=80)], ids=str)
def test_loss_and_scores_equal_pytorch(chooser, theirs, tmp_path, one_device, rows):
    made = built(chooser, tmp_path, batching=rows)
    trained, frozen, _ = made.load()
    batch = on_device(batches_of(made)[0])
    assert batch["example_ids"].max() >= (2 if isinstance(rows, Pack) else 1)
    out = made.forward(trained | frozen, batch, None)
    sums = made.task.loss(out, batch)
    pairs = zip(theirs, torch.tensor(RIGHT), strict=True)
    wanted = [torch.nn.functional.cross_entropy(some, number) for some, number in pairs]
    assert sums["loss"].value() == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-5)
    assert float(sums["loss"].count) == 5
    found = np.asarray(out.logits)[..., 0][batch["weights"] > 0]
    assert sorted(found.tolist()) == pytest.approx(sorted(torch.cat(theirs).tolist()), abs=1e-5)


def test_gradient_equals_pytorch_whatever_the_rows(chooser, bert_tokenizer, tmp_path, one_device):
    """In two micro-batches as well."""
    made = built(chooser, tmp_path)
    trained, frozen, _ = made.load()
    key = jax.random.key(0)

    def gradient(rows, pieces=1):
        batches = Batches(batches_of(made).encoded, rows, 5, 0, None, made.task.max_predictions, pieces, 24, 0)
        sums, values = accumulate(trained, frozen, on_device(batches[0]), made.loss, pieces, key)
        return {name: value / sums["loss"].count for name, value in values.items()}

    model = transformers.BertForMultipleChoice.from_pretrained(chooser).eval()
    losses = []
    for row, number in zip(ROWS, RIGHT, strict=True):
        pairs = [(row["question"], choice) for choice in row["choices"]]
        given = bert_tokenizer(pairs, padding=True, truncation=True, max_length=24, return_tensors="pt")
        given = {name: array[None] for name, array in given.items()}
        losses.append(model(**given, labels=torch.tensor([number])).loss)
    torch.stack(losses).mean().backward()
    wanted = model.classifier.weight.grad.numpy().T, model.bert.embeddings.word_embeddings.weight.grad.numpy()
    for rows, pieces in ((Pad(), 1), (Pack(length=128), 1), (Pack(length=90), 2)):
        found = gradient(rows, pieces)
        for name, values in zip(("head.out.kernel", "embed.tokens.embedding"), wanted, strict=True):
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4 * np.abs(values).max())


def test_evaluation_counts_every_example_once(chooser, theirs, tmp_path, one_device):
    made = built(chooser, tmp_path)
    trained, frozen, _ = made.load()
    batches = EvalBatches(batches_of(made).encoded, Pad(), 2, 0, None, made.task.max_predictions, 1, 24, 0)
    step = evaluation_step(made)
    found = evaluate(lambda batch: step(trained, frozen, batch), batches, lambda batch: batch, made.task).numbers
    scores = [some.detach().numpy() for some in theirs]
    assert found["accuracy"] == np.mean([some.argmax() == number for some, number in zip(scores, RIGHT, strict=True)])
    ranks = [1 + np.sum(some > some[number]) for some, number in zip(scores, RIGHT, strict=True)]
    assert found["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)), abs=1e-12)


def test_choice_metrics_equal_sklearn():
    rng = np.random.default_rng(0)
    scores, right = rng.standard_normal((40, 4)), rng.integers(4, size=40)
    marks = np.eye(4)[right]
    found = choice_metrics(marks.ravel(), scores.ravel(), np.repeat(rng.permutation(40), 4))
    assert found["mrr"] == pytest.approx(label_ranking_average_precision_score(marks, scores), abs=1e-12)
    assert found["accuracy"] == np.mean(scores.argmax(1) == right)
    same = choice_metrics(np.array([0.0, 1.0, 1.0, 0.0]), np.zeros(4), np.array([7, 7, 3, 3]))
    assert same == {"accuracy": 0.5, "mrr": 0.75}  # of equal scores the first is the better one


def test_a_row_that_is_drawn_twice_counts_twice():
    """As the bootstrap draws rows: also where they stand side by side."""
    slots = {"targets": [1.0, 0, 0, 1, 0], "logits": [2.0, 1, 0, -1, 3], "index": [4, 4, 7, 7, 7]}
    kept = GroupedOutputs({name: np.array(values) for name, values in slots.items()}, np.array(slots["index"]))
    drawn = kept.take(np.array([1, 1, 0]))
    found = choice_metrics(drawn["targets"], drawn["logits"], drawn["index"])
    assert found == pytest.approx({"accuracy": 1 / 3, "mrr": (1 / 3 + 1 / 3 + 1) / 3})


def made_of(rows, setting, **more):
    return MultipleChoice(**more).encode(rows, setting)


def test_examples(bert_tokenizer):
    """Each choice behind its question, as the tokenizer writes a pair, cut by itself."""
    setting = EncodingContext(bert_tokenizer, 9)
    example = made_of([ROWS[0]], setting)[0]
    pairs = [bert_tokenizer(TEXTS[0], text, truncation=True, max_length=9) for text in ROWS[0]["choices"]]
    assert example["tokens"].tolist() == sum((pair["input_ids"] for pair in pairs), [])
    assert example["types"].tolist() == sum((pair["token_type_ids"] for pair in pairs), [])
    sizes = [len(pair["input_ids"]) for pair in pairs]
    assert example["sub_texts"].tolist() == np.repeat([0, 1, 2], sizes).tolist() and example["truncated"]
    assert example["at"].tolist() == [0, sizes[0], sizes[0] + sizes[1]]
    assert example["targets"].tolist() == [0, 1, 0] and example["weights"].tolist() == [1, 1, 1]
    last = made_of([ROWS[0]], replace(setting, pool_token="last"))[0]
    assert last["at"].tolist() == [sizes[0] - 1, sizes[0] + sizes[1] - 1, sum(sizes) - 1]


def test_segments_and_positions_of_parts(bert_tokenizer):
    """Of several examples in a row, each choice is a segment of its own, and its positions begin at 0."""
    encoded = encode_all(rows_of(ROWS), lambda some: made_of(some, EncodingContext(bert_tokenizer, 24)))
    batch = Batches(encoded, Pack(length=140), 5, 0, None, lambda length: 1, 1, 24, 0)[0]
    starts = {}
    for row, owner, index in zip(
        *np.nonzero(batch["example_ids"]), batch["index"][batch["example_ids"] > 0], strict=False
    ):
        starts.setdefault(int(index), []).append((int(row), int(owner)))
    for row in range(len(batch["tokens"])):
        segments, positions = batch["segments"][row], batch["positions"][row]
        used = segments > 0
        fresh = np.flatnonzero(np.diff(segments[used], prepend=0) != 0)
        assert segments[used][fresh].tolist() == list(range(1, 1 + len(fresh)))  # numbered from 1, none left out
        assert np.all(positions[used][fresh] == 0)
        assert batch["at"][row][batch["weights"][row] > 0].tolist() == fresh.tolist()
        rest = np.setdiff1d(np.flatnonzero(used), fresh)
        assert np.all(positions[rest] == positions[rest - 1] + 1)
    assert sorted(np.bincount(batch["index"][batch["index"] >= 0]).tolist()) == [2, 2, 3, 3, 4]


LABELS = [(0, 0), ("2", 2), (1.0, 1), ("C", 2), ("b ", 1), (None, None), ("", None), (-1, None), ("-100", None)]


@pytest.mark.parametrize(("label", "number"), LABELS)
def test_labels(bert_tokenizer, label, number):
    task = MultipleChoice(text="q", choices=("a", "b", "c"))
    row = {"q": "the cat", "a": "sat", "b": "on", "c": "the mat", "label": label}
    example = task.encode([row], EncodingContext(bert_tokenizer, 24))[0]
    assert example == "no label" if number is None else example["targets"].argmax() == number
    with pytest.raises(UserError, match="'label' holds 1.5, but there are 3 choices: expected a number from 0 to 2"):
        task.encode([row | {"label": 1.5}], EncodingContext(bert_tokenizer, 24))


def test_what_is_no_choice(bert_tokenizer):
    setting = EncodingContext(bert_tokenizer, 24)
    assert made_of([{"question": "the", "choices": ["a"], "label": 0}], setting) == ["fewer than two choices"]
    assert made_of([{"question": "the", "choices": None, "label": None}], setting) == ["no label"]
    lists = {"text": ["a", "b"], "label": ["A", "B"]}  # as ARC has them
    assert made_of([{"question": "the", "choices": lists, "label": "B"}], setting)[0]["targets"].tolist() == [0, 1]
    with pytest.raises(UserError, match="'choices' holds 'a, b', expected a list of texts; or name several columns"):
        made_of([{"question": "the", "choices": "a, b", "label": 0}], setting)
    with pytest.raises(UserError, match="'label' holds 2, but there are 2 choices"):
        made_of([{"question": "the", "choices": ["a", "b"], "label": 2}], setting)
    with pytest.raises(UserError, match="choices cannot be cut into chunks"):
        MultipleChoice().prepare([], EncodingContext(bert_tokenizer, None))


def test_run_and_predict(chooser, tmp_path, one_device, bert_tokenizer):
    """From a file to metrics, and to the answers of the predict command, which are PyTorch's."""
    texts = [{"ctx": TEXTS[i % 5], "e0": TEXTS[(i + 1) % 5], "label": f"e{i % 2}"} for i in range(12)]
    rows = [row | {"end": "the dog", "e1": "a log"} for row in texts]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task, data = MultipleChoice(text="{ctx} {end}", choices=("e0", "e1")), Data(path=str(file))
    cfg = Config(
        model=str(chooser),
        task=task,
        data=data,
        evals={"test": Eval(data=data)},
        lr=1e-3,
        batch=4,
        steps=2,
        max_len=32,
        mesh=Mesh(data=1),
        batching=Pack(length=64),
    )
    results = fit(cfg, str(tmp_path / "run")).metrics
    assert results["test"].keys() >= {"loss", "accuracy", "mrr"}
    assert evaluate_run(str(tmp_path / "run"), None)["test"]["accuracy"] == results["test"]["accuracy"]
    model = jaxft.load(str(tmp_path / "run/model"))
    columns = text_columns(data.open(), model.inference, "{ctx} {end}", "e0,e1")
    write_answers(model, data.open(), columns, 4, str(tmp_path / "out.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    torch_model = transformers.BertForMultipleChoice.from_pretrained(tmp_path / "run/model").eval()
    for row, line in zip(rows, lines, strict=True):
        pairs = [(f"{row['ctx']} {row['end']}", row[name]) for name in ("e0", "e1")]
        given = bert_tokenizer(pairs, padding=True, truncation=True, max_length=32, return_tensors="pt")
        wanted = torch_model(**{name: array[None] for name, array in given.items()}).logits[0].softmax(-1)
        assert line["scores"] == pytest.approx(wanted.tolist(), abs=1e-5)
        assert line["choice"] == int(wanted.argmax()) and line["score"] == max(line["scores"])
        assert line["e0"] == row["e0"]
    with pytest.raises(UserError, match="row 1 holds 2 texts: a multiple-choice model reads"):
        model.predict([("a", "b")])
