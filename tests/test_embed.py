"""Sentence embeddings: losses and gradients beside PyTorch's, metrics by loops, and runs to files of vectors."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import TEXTS, rows_of
from datasets import Dataset
from scipy import stats

from jaxft import predict
from jaxft.cli import command
from jaxft.config import Config, Eval, Mesh
from jaxft.config.ranges import problems_of
from jaxft.data import Data, Pack, Pad
from jaxft.data.encoded import encode_all
from jaxft.data.pipeline import Batches
from jaxft.metrics import objective
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.contrastive_embedding import ContrastiveEmbedding, Similarity, Triplet
from jaxft.tasks.vectors import search_metrics
from jaxft.training.fit import fit
from jaxft.training.setup import build
from jaxft.training.step import accumulate

SCORES = (-0.5, 1, 0.25, 0, 4, 2.5, 5)
ROWS = [
    {"a": TEXTS[i % 5], "p": TEXTS[(i + 2) % 5][: 9 + 3 * i], "n": TEXTS[(i + 1) % 5], "s": str(score)}
    for i, score in enumerate(SCORES)
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


def configured(directory, task, file, **more) -> Config:
    cfg = {"lr": 1e-3, "batch": 7, "steps": 1, "max_len": 24, "dropout": 0.0, "dtype": "float32", "mesh": Mesh(data=1)}
    return Config(model=str(directory), task=task, data=Data(path=file), **(cfg | more))


def torch_vectors(model, tokenizer, pooling: str, *names: str, most=24) -> list[torch.Tensor]:
    """(rows, width) for each column, by PyTorch."""
    found = []
    for name in names:
        given = tokenizer(
            [row[name] for row in ROWS], padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        hidden, mask = model(**given).last_hidden_state, given["attention_mask"][..., None]
        last = given["attention_mask"].sum(1) - 1
        found.append(
            {
                "mean": lambda h, m, _: (h * m).sum(1) / m.sum(1),
                "first": lambda h, *_: h[:, 0],
                "last": lambda h, _, at: h[torch.arange(len(h)), at],
            }[pooling](hidden, mask, last)
        )
    return found


def contrast(scale, anchors, *others):
    """Texts equal to the anchor or its partner are not wrong, nor are the partners of an equal anchor."""
    scores = scale * torch.nn.functional.cosine_similarity(anchors[:, None], torch.cat(others)[None], dim=-1)
    for i, row in enumerate(ROWS):
        for j, (name, other) in enumerate((name, other) for name in "pn"[: len(others)] for other in ROWS):
            if i != j and (other[name] in (row["a"], row["p"]) or name == "p" and other["a"] == row["a"]):
                scores[i, j] = -torch.inf
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(anchors)))


def triplet(margin, *three):
    return torch.nn.functional.triplet_margin_loss(*three, margin=margin)


def similarity(labels, first, second):
    return torch.nn.functional.mse_loss(torch.nn.functional.cosine_similarity(first, second), labels)


LABELS = torch.tensor([-0.1, 0.2, 0.05, 0.0, 0.8, 0.5, 1.0])
CASES = {
    "pairs": (ContrastiveEmbedding(text="a", pair="p"), lambda *x: contrast(20.0, *x), ("a", "p")),
    "with wrong texts": (
        ContrastiveEmbedding(text="a", pair="p", negative="n", scale=5.0),
        lambda *x: contrast(5.0, *x),
        ("a", "p", "n"),
    ),
    "triplets": (Triplet(text="a", pair="p", negative="n", margin=3.0), lambda *x: triplet(3.0, *x), ("a", "p", "n")),
    "similarity": (Similarity(text="a", pair="p", label="s", most=5.0), lambda *x: similarity(LABELS, *x), ("a", "p")),
}


@pytest.mark.parametrize(
    ("case", "pooling"), [*((case, "mean") for case in CASES), ("pairs", "first"), ("triplets", "last")]
)
def test_loss_and_gradient_equal_pytorch(case, pooling, tiny_bert, bert_tokenizer, file, one_device):
    """Padded, packed, and with the beginnings of the vectors beside them."""
    task, loss_of, names = CASES[case]
    widths = (6, 14) if pooling == "mean" else ()
    task = type(task)(
        **{key: getattr(task, key) for key in task.__slots__} | {"pooling": pooling, "matryoshka": widths}
    )
    theirs = transformers.BertModel.from_pretrained(tiny_bert, add_pooling_layer=False).eval()
    vectors = torch_vectors(theirs, bert_tokenizer, pooling, *names)
    wanted = sum(loss_of(*(some[:, :width] for some in vectors)) for width in (None, *widths))
    wanted.backward()
    table = theirs.embeddings.word_embeddings.weight.grad.numpy()
    for rows in (Pad(), Pack(length=150)):
        made = build(configured(tiny_bert, task, file, batching=rows, init="backbone"))
        trained, frozen, _ = made.load()
        encoded = encode_all(rows_of(ROWS), partial(task.encode, setting=made.setting))
        batch = Batches(encoded, rows, 7, 0, None, task.max_predictions, 1, 24, 0)[0]
        batch.pop("index")
        sums, gradient = accumulate(trained, frozen, batch, made.loss, 1, jax.random.key(0))
        assert objective(sums).value() == pytest.approx(wanted.item(), rel=2e-5)
        assert sums["loss"].value() == pytest.approx(loss_of(*vectors).item(), rel=2e-5)  # of the whole vectors
        found = np.asarray(gradient["embed.tokens.embedding"]) / 7
        np.testing.assert_allclose(found, table, rtol=0, atol=1e-4 * np.abs(table).max())


def test_search(monkeypatch):
    """Each partner's place, by a loop; in pieces as well."""
    rng = np.random.default_rng(0)
    texts, partners = rng.standard_normal((2, 50, 3))
    cosines = texts @ partners.T / np.linalg.norm(partners, axis=1)
    places = np.array([1 + sum(row > row[number]) for number, row in enumerate(cosines)])
    wanted = {"recall@1": places == 1, "recall@10": places <= 10, "mrr": 1 / places}
    wanted["ndcg@10"] = np.where(places <= 10, 1 / np.log2(1 + places), 0)
    for size in (1024, 7):
        monkeypatch.setattr("jaxft.tasks.vectors.NEAREST", size)
        found = search_metrics(texts, partners)
        assert found == pytest.approx({name: np.mean(values) for name, values in wanted.items()}, abs=1e-12)


TWINS = [
    ("the dog", "the cat", "a log"),
    ("a mat", "the cat", "a mat"),
    ("the dog", "a dog", "the cat"),
    ("the mat", "the dog", "a dog"),
]


def test_equal_texts_are_not_wrong(bert_tokenizer, monkeypatch):
    """Beside PyTorch's cross entropy over the texts that are wrong, each of them found by a loop over the texts."""
    rng, rows = np.random.default_rng(0), [dict(zip("apn", row, strict=True)) for row in TWINS]
    named = {text: rng.standard_normal(6) for row in TWINS for text in row}
    vectors = np.array([[named[text] for text in row] for row in TWINS], np.float32)
    units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    others = [(row[kind], units[i, kind], kind, row[0]) for kind in (1, 2) for i, row in enumerate(TWINS)]
    losses, places = [], []
    for i, (anchor, partner, _) in enumerate(TWINS):
        wrong = [
            vector
            for text, vector, kind, first in others
            if text not in (anchor, partner) and not (kind == 1 and first == anchor)
        ]
        scores = 5.0 * torch.tensor(np.array([units[i, 1], *wrong]) @ units[i, 0])
        losses.append(torch.nn.functional.cross_entropy(scores[None], torch.tensor([0])).item())
        searched = [
            vector
            for text, vector, kind, first in others
            if kind == 1 and text not in (anchor, partner) and first != anchor
        ]
        places.append(1 + sum(float(units[i, 0] @ vector) > float(units[i, 0] @ units[i, 1]) for vector in searched))
    task = ContrastiveEmbedding(text="a", pair="p", negative="n", scale=5.0)
    setting = EncodingContext(bert_tokenizer, 9)
    marks = np.array([example["digests"] for example in task.encode(rows, setting)])
    assert len(np.unique(marks.reshape(-1, 2), axis=0)) == len(named)
    for given in (marks, None):
        errors, nearest = task._nearest(jnp.asarray(units), jnp.ones(4), given)
        np.testing.assert_allclose(errors, losses, rtol=1e-5)
    for size in (1024, 3):
        monkeypatch.setattr("jaxft.tasks.vectors.NEAREST", size)
        found = search_metrics(vectors[:, 0], vectors[:, 1], (marks[:, 0], marks[:, 1]))
        assert found["mrr"] == pytest.approx(np.mean(1 / np.array(places))) and found["recall@1"] == np.mean(
            np.array(places) == 1
        )
    # In a batch, packed or not, and with rows that hold nothing.
    encoded = encode_all(rows_of(rows), partial(task.encode, setting=setting))
    for how in (Pad(), Pack(length=60)):
        batch = Batches(encoded, how, 4, 0, None, task.max_predictions, 1, 9, 0)[0]
        used = batch["weights"] > 0
        order = batch["index"][used][::3]
        assert batch["digests"][used].reshape(-1, 3, 2).tolist() == marks[order].tolist()
    left = Triplet(text="a", pair="p", negative="n").encode(rows, setting)
    assert [one for one in left if isinstance(one, str)] == ["the wrong text is one of the other two"]
    assert isinstance(left[1], str)


def test_metrics_of_a_perfect_model_with_shared_partners():
    """One answer to several questions."""
    vectors = np.random.default_rng(0).normal(size=(4, 8)).astype("f4")
    vectors[1] = vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    errors, nearest = ContrastiveEmbedding(scale=1000.0)._nearest(jnp.stack([vectors, vectors], 1), jnp.ones(4))
    np.testing.assert_allclose(errors, 0, atol=1e-6)
    assert set(search_metrics(vectors, vectors).values()) == {1.0} and nearest.tolist() == [1, 1, 1, 1]


def test_a_row_without_example_teaches_nothing(bert_tokenizer):
    """Its slots are empty; neither is it a wrong partner of others."""
    task = ContrastiveEmbedding(text="a", pair="p")
    vectors = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2, 6)), jnp.float32)
    valid = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0])

    def total(vectors):
        errors, _ = task._nearest(vectors, valid)
        return jnp.sum(jnp.where(valid > 0, errors, 0.0))

    kept = jnp.asarray([0, 1, 3])
    alone, _ = task._nearest(vectors[kept], jnp.ones(3))
    assert float(total(vectors)) == pytest.approx(float(alone.sum()), rel=1e-6)
    gradient = jax.grad(total)(vectors)
    assert np.all(np.isfinite(gradient)) and np.all(gradient[jnp.asarray([2, 4])] == 0)


def test_examples(bert_tokenizer):
    setting = EncodingContext(bert_tokenizer, 9)
    task = Similarity(text="a", pair="p", label="s")
    rows = [{"a": TEXTS[0], "p": "the dog", "s": 0.5}, {"a": "x", "p": "y", "s": None}]
    example, without = task.encode(rows, setting)
    assert without == "no label" and example["truncated"]
    first, second = (bert_tokenizer(rows[0][name], truncation=True, max_length=9)["input_ids"] for name in "ap")
    assert example["tokens"].tolist() == first + second and example["at"].tolist() == [0, len(first)]
    assert example["sub_texts"].tolist() == [0] * len(first) + [1] * len(second)
    assert example["targets"].tolist() == [0.5, 0.5]
    with pytest.raises(
        UserError, match="'s' holds 4, expected a number from -1 to 1: config.task.most is the label of"
    ):
        task.encode([rows[0] | {"s": 4}], setting)
    with pytest.raises(UserError, match="texts cannot be cut into chunks"):
        task.prepare([], EncodingContext(bert_tokenizer, None))
    bad = problems_of(ContrastiveEmbedding(pooling="max", scale=0.0, matryoshka=(0,)))
    assert len(bad) == 3 and "pooling is 'max', expected mean or first or last" in bad[-1]


RUNS = {
    "contrast": (
        ContrastiveEmbedding(text="a", pair="p", negative="n", pooling="last", matryoshka=(8,)),
        {"recall@1", "recall@10", "ndcg@10", "mrr"},
    ),
    "triplet": (Triplet(text="a", pair="p", negative="n", pooling="first"), {"accuracy"}),
    "similarity": (Similarity(text="a", pair="p", label="s", most=5.0), {"pearson", "spearmanr", "mse"}),
}


@pytest.mark.parametrize("run", RUNS)
def test_run_and_predict(run, tiny_bert, bert_tokenizer, file, tmp_path, one_device, monkeypatch):
    """From rows to metrics that are those of the exported model's vectors, which PyTorch finds as well."""
    task, metrics = RUNS[run]
    sets = {"test": Eval(data=Data(path=file))}
    cfg = configured(tiny_bert, task, file, evals=sets, batching=Pack(length=96), init="backbone", batch=3, steps=2)
    results = fit(cfg, str(tmp_path / "run")).metrics["test"]
    assert results.keys() >= metrics | {"loss"}
    model = transformers.BertModel.from_pretrained(tmp_path / "run/model", add_pooling_layer=False).eval()
    names = ("a", "p", "n")
    with torch.no_grad():
        anchors, partners, wrong = torch_vectors(model, bert_tokenizer, task.pooling or "mean", *names)
    cosine = torch.nn.functional.cosine_similarity
    if run == "contrast":
        near = cosine(anchors[:, None], partners[None], dim=-1)
        same = torch.tensor(
            [
                [
                    i != j and (one["a"] == other["a"] or other["p"] in (one["a"], one["p"]))
                    for j, other in enumerate(ROWS)
                ]
                for i, one in enumerate(ROWS)
            ]
        )
        place = 1 + ((near > near.diagonal()[:, None]) & ~same).sum(1)
        assert results["mrr"] == pytest.approx((1 / place.double()).mean().item(), abs=1e-9)
        assert results["recall@1"] == pytest.approx((place == 1).double().mean().item())
    elif run == "triplet":
        nearer = (anchors - partners).norm(dim=-1) < (anchors - wrong).norm(dim=-1)
        assert results["accuracy"] == pytest.approx(nearer.float().mean().item())
    else:
        assert results["spearmanr"] == pytest.approx(
            stats.spearmanr(cosine(anchors, partners), LABELS).statistic, abs=1e-6
        )
        assert results["pearson"] == pytest.approx(
            stats.pearsonr(cosine(anchors, partners), LABELS).statistic, abs=1e-4
        )
    modules = json.loads((tmp_path / "run/model/modules.json").read_text())
    assert [one["path"] for one in modules] == ["", "1_Pooling"]
    monkeypatch.setattr("jaxft.inference.answer_files.CHUNK", 3)
    for ending in ("jsonl", "parquet", "npy"):
        asked(tmp_path, file, ending)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = Dataset.from_parquet(str(tmp_path / "out.parquet"))
    array = np.load(tmp_path / "out.npy")
    assert array.shape == (7, anchors.shape[1]) and array.dtype == np.float32
    for number, row in enumerate(ROWS):
        assert lines[number]["p"] == table[number]["p"] == row["p"]
        for vector in (lines[number]["embedding"], table[number]["embedding"], array[number]):
            np.testing.assert_allclose(vector, anchors[number].numpy(), atol=2e-5)
    with pytest.raises(UserError, match=r"--output=.*out.txt: expected .jsonl, .csv, .tsv, .parquet, .npy"):
        asked(tmp_path, file, "txt")


def asked(tmp_path, file, ending):
    line = [f"--model={tmp_path}/run/model", f"--input={file}", f"--output={tmp_path}/out.{ending}", "--text=a"]
    names = ("model", "input", "output", "text", "pair", "decode", "prompt-name", "scores")
    flags = [command.Flag(name, "") for name in names]
    flags.append(command.Flag("max-len", "", type=int))
    predict.main(command.parse(line, *flags, command.Flag("batch", "", type=int, default=4)))
