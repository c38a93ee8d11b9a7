"""Search by embedding: brute force in float64, sentence-transformers' own search, and what a user gets wrong."""

import io
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pandas
import polars
import pytest
import sentence_transformers
import torch
import transformers
from conftest import TEXTS
from runs import command as run_command
from scipy.spatial.distance import cdist
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

import jaxft
from jaxft import search
from jaxft.inference import hnsw, nearest
from jaxft.inference.hnsw import Hnsw
from jaxft.problems import UserError
from jaxft.reports import terminal

ROWS = [f"{text} {number}" for number, text in enumerate(TEXTS * 5)]
METRICS = {"cosine": "cosine", "euclidean": "euclidean", "manhattan": "cityblock"}


def brute_force(queries, vectors, similarity) -> np.ndarray:
    """Scores in float64, by scipy."""
    queries, vectors = queries.astype(np.float64), vectors.astype(np.float64)
    if similarity == "dot":
        return queries @ vectors.T
    return (1 if similarity == "cosine" else 0) - cdist(queries, vectors, METRICS[similarity])


@pytest.mark.parametrize("similarity", nearest.SIMILARITIES)
@pytest.mark.parametrize("count, top", [(1, 3), (37, 5), (64, 64)])
def test_the_nearest_are_those_of_brute_force(similarity, count, top, monkeypatch):
    """With several blocks of rows and of queries, the last of them not full, and fewer rows than asked for."""
    monkeypatch.setattr(nearest, "ROWS", 16)
    monkeypatch.setattr(nearest, "QUERIES", 4)
    rng = np.random.default_rng(count)
    queries, vectors = (rng.normal(size=(n, 6)).astype(np.float32) for n in (7, count))
    scores, rows = nearest.nearest(queries, vectors, similarity, top)
    wanted = brute_force(queries, vectors, similarity)
    np.testing.assert_array_equal(rows, np.argsort(-wanted, axis=1)[:, :top])
    np.testing.assert_allclose(scores, -np.sort(-wanted, axis=1)[:, :top], atol=2e-6, rtol=2e-6)


def test_distances_of_near_neighbours_keep_their_digits():
    """|q|^2 + |r|^2 - 2 q.r in float32 would give 0 for both rows, or noise."""
    query = np.full((1, 8), 100.0, np.float32)
    vectors = query + np.array([[2e-4], [1e-4]], np.float32)
    scores, rows = nearest.nearest(query, vectors, "euclidean", 2)
    np.testing.assert_array_equal(rows, [[1, 0]])
    np.testing.assert_allclose(scores, -np.sort(cdist(query, vectors)), rtol=1e-6)


@pytest.mark.parametrize("similarity", nearest.SIMILARITIES)
def test_of_equal_scores_the_first_row_is_first(similarity, monkeypatch):
    """Equal vectors in one block and in several; whole numbers, so that sums are exact in any order."""
    monkeypatch.setattr(nearest, "ROWS", 8)
    vectors = np.tile(np.array([[1, 0, 0, 2], [2, 0, 0, 1]], np.float32), (15, 1))
    scores, rows = nearest.nearest(vectors[:1], vectors, similarity, 20)
    np.testing.assert_array_equal(rows[0, :15], np.arange(0, 30, 2))
    np.testing.assert_array_equal(rows[0, 15:], [1, 3, 5, 7, 9])
    assert len(set(scores[0, :15])) == 1


@pytest.fixture(scope="module")
def embedder(tiny_bert, tmp_path_factory):
    """folder(**settings) of a sentence-transformers directory, and that library's model."""
    backbone = tmp_path_factory.mktemp("backbone")
    shutil.copytree(tiny_bert, backbone, dirs_exist_ok=True)
    transformers.AutoModel.from_pretrained(tiny_bert, add_pooling_layer=False).save_pretrained(backbone)

    def made(normalize=False, **settings):
        torch.manual_seed(0)
        modules = [Transformer(str(backbone), max_seq_length=64), Pooling(24, pooling_mode="mean")]
        modules += [Normalize()] if normalize else []
        model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu", **settings)
        folder = tmp_path_factory.mktemp("embedder")
        model.save(str(folder))
        return folder, model

    return made


CASES = {
    "the default": {},
    "normalised": {"normalize": True, "similarity_fn_name": "dot"},
    "dot": {"similarity_fn_name": "dot"},
    "euclidean": {"similarity_fn_name": "euclidean"},
    "manhattan": {"similarity_fn_name": "manhattan"},
    "prompts": {"prompts": {"query": "a good film: ", "document": "the dog sat on "}},
    "a default prompt, which a search does not use": {"prompts": {"x": "a dull story "}, "default_prompt_name": "x"},
}


@pytest.mark.parametrize("name", CASES)
def test_a_search_is_sentence_transformers(name, embedder, one_device):
    folder, theirs = embedder(**CASES[name])
    queries = ["the cat sat", "a great story", "even numbers: 7"]
    asked, read = (
        of(texts, convert_to_tensor=True)
        for of, texts in ((theirs.encode_query, queries), (theirs.encode_document, ROWS))
    )
    wanted = sentence_transformers.util.semantic_search(asked, read, top_k=6, score_function=theirs.similarity)
    found = jaxft.load(str(folder)).search(queries, ROWS, top=6)
    scores = np.array([[hit["score"] for hit in hits] for hits in found])
    rows = np.array([[hit["row"] for hit in hits] for hits in found])
    np.testing.assert_allclose(scores, [[hit["score"] for hit in hits] for hits in wanted], atol=1e-4)
    # Neighbours whose scores differ by rounding may change places.
    its = np.take_along_axis(theirs.similarity(asked, read).numpy(), rows, 1)
    np.testing.assert_allclose(scores, its, atol=1e-4)
    assert all(ROWS[hit["row"]] == hit["text"] for hits in found for hit in hits)


def test_a_passage_prompt_is_that_of_the_rows(embedder, one_device):
    """As the library documents it. Into directories of its own it writes an empty `document`, which comes first."""
    folder, theirs = embedder(prompts={"query": "a good film: ", "passage": "the dog sat on "})
    assert jaxft.load(str(folder)).embedding.document_prompt == "document"
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    del settings["prompts"]["document"]
    path.write_text(json.dumps(settings))
    model = jaxft.load(str(folder))
    wanted = theirs.encode(ROWS, prompt_name="passage")
    np.testing.assert_allclose(model.index(ROWS).vectors, wanted, atol=2e-5)
    plain = model.index(ROWS, prompt_name="").vectors
    np.testing.assert_allclose(plain, theirs.encode(ROWS, prompt=""), atol=2e-5)
    (hits,) = model.search("the cat sat", model.index(ROWS, prompt_name=""), top=1, prompt_name="")
    similarity = theirs.similarity(theirs.encode(["the cat sat"], prompt=""), theirs.encode(ROWS, prompt=""))
    assert hits[0]["row"] == int(similarity[0].argmax())
    with pytest.raises(UserError, match="there is no prompt 'nothing'"):
        model.index(ROWS, prompt_name="nothing")


@pytest.fixture(scope="module")
def model(embedder):
    return jaxft.load(str(embedder()[0]))


def test_rows_of_any_kind(model, one_device):
    """Texts, dicts and a DataFrame have the same hits, and keep their fields."""
    table = pandas.DataFrame({"text": ROWS, "row": range(25), "price": [0.5] * 25})
    index = model.index(ROWS)
    (texts,) = model.search("a good film", index, top=2)
    (dicts,) = model.search(["a good film"], table.to_dict("records"), top=2)
    (frame,) = model.search({"text": "a good film"}, table, top=2)
    assert frame == dicts
    assert dicts == [
        {"text": hit["text"], "row": hit["row"], "price": 0.5, "found_row": hit["row"], "score": hit["score"]}
        for hit in texts
    ]
    (more,) = model.search("a good film", polars.DataFrame(table.to_dict("list")), top=2)
    assert more == frame and model.search([], index) == []
    (pair,) = model.search("a good film", [("a film", "good"), ("a dog", "sat")], top=1)
    assert pair[0].keys() == {"texts", "row", "score"}
    assert [len(hits) for hits in model.search(["a", "b"], ROWS[:3])] == [3, 3]


def test_an_approximate_index_finds_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2000, 16)).astype(np.float32)
    queries = rng.normal(size=(20, 16)).astype(np.float32)
    for similarity in hnsw.METRICS:
        scores, rows = Hnsw.of(vectors, similarity, None).nearest(queries, 10)
        wanted, exact = nearest.nearest(queries, vectors, similarity, 10)
        shared = [len({*some} & {*others}) for some, others in zip(rows.tolist(), exact.tolist(), strict=True)]
        assert sum(shared) >= 190, similarity  # of 200
        np.testing.assert_allclose(scores[:, 0], wanted[:, 0], rtol=1e-4)
        assert (np.diff(scores) <= 0).all()
    with pytest.raises(UserError, match="hnsw has no manhattan similarity, only cosine, dot, euclidean: use exact"):
        Hnsw.of(vectors, "manhattan", None)
    monkeypatch.setattr(hnsw.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs faiss: pip install 'jaxft\[search\]'"):
        Hnsw.of(vectors, "cosine", None)


@pytest.mark.parametrize("method", ["exact", "hnsw"])
def test_a_store_is_read_and_a_stale_one_is_refused(method, model, embedder, tmp_path, monkeypatch, one_device):
    made = model.index(ROWS, method, store=tmp_path / "kept")
    files = {"embeddings.npy", "index.json"} | ({"hnsw.faiss"} if method == "hnsw" else set())
    assert {file.name for file in (tmp_path / "kept").iterdir()} == files
    monkeypatch.setattr("jaxft.inference.index.embedded", None)  # which is not called again
    again = jaxft.load(str(model.pretrained.directory)).index(ROWS, method, store=tmp_path / "kept")
    np.testing.assert_array_equal(again.vectors, made.vectors)
    queries = made.vectors[:3]
    assert again.hits(queries, 4) == made.hits(queries, 4)
    with pytest.raises(UserError, match="kept holds the embeddings of other rows: remove"):
        model.index([*ROWS[:-1], "another"], method, store=tmp_path / "kept")
    for other in (
        model.departing(max_length=5),
        jaxft.load(str(model.pretrained.directory), dtype="bfloat16"),
        jaxft.load(str(embedder(normalize=True)[0])),
        changed(model),
    ):
        with pytest.raises(UserError, match="holds the embeddings of another model: remove .*kept, or name another"):
            other.index(ROWS, method, store=tmp_path / "kept")


def changed(model):
    """The model with one weight that is another in its last bit."""
    other = model.departing(max_length=None)
    path, array = next(iter(model.params.items()))
    flat = np.array(array).ravel()
    flat[-1] = np.nextafter(flat[-1], np.float32(1))
    other.params = model.params | {path: flat.reshape(array.shape)}
    return other


def test_a_damaged_store(model, tmp_path, one_device):
    store = tmp_path / "kept"
    model.index(ROWS, "hnsw", store=store)
    for file, text, message in (
        ("hnsw.faiss", "x" * 99, "hnsw.faiss cannot be read: remove it"),
        ("embeddings.npy", "x", "embeddings.npy cannot be read"),
        ("index.json", "{", "index.json cannot be read .*: remove .*kept, or name another folder"),
        ("index.json", "{}", "was not written by this version of jaxft"),
    ):
        (store / file).write_text(text)
        with pytest.raises(UserError, match=message):
            model.index(ROWS, "hnsw", store=store)
    (store / "index.json").unlink()
    assert len(model.index(ROWS, "hnsw", store=store).vectors) == 25  # an incomplete folder is written anew
    np.save(store / "embeddings.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(UserError, match=r"holds float32 \(3, 2\), not float32 \(25, width\)"):
        model.index(ROWS, store=store)


def test_what_a_user_gets_wrong(model, tiny_classifier, embedder, one_device):
    for rows, how, message in (
        (ROWS, {"method": "hnws"}, "method is 'hnws', expected exact or hnsw. Did you mean 'hnsw'"),
        ([], {}, "there are no rows to search"),
        ([{"txt": "a"}], {}, "the row has no 'text', which the model reads. Did you mean 'txt'"),
        ([*ROWS, 3], {}, "rows, row 26: input 1: found 3, expected a text"),
    ):
        with pytest.raises(UserError, match=message):
            model.index(rows, **how)
    for top in (0, 1.5, "3"):
        with pytest.raises(UserError, match=f"top is {top!r}, expected a whole number, 1 or more"):
            model.search("a", ROWS, top=top)
    with pytest.raises(UserError, match="batch is 0, expected a whole number, 1 or more"):
        model.predict(["a"], batch=0)
    classifier = jaxft.load(str(tiny_classifier))
    with pytest.raises(UserError, match="has the head sequence-classification: load it with jaxft.load.*head='none'"):
        classifier.search("a", ROWS)
    folder, _ = embedder()
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"similarity_fn_name": "hamming"}))
    with pytest.raises(UserError, match="similarity 'hamming' is not supported, only cosine, dot"):
        jaxft.load(str(folder)).search("a", ROWS)


def asked(model, rows, capsys, **flags):
    """What the command prints, in this process: `flags` in place of the defaults."""
    usual = dict.fromkeys("query queries output text query_text prompt_name query_prompt store max_len".split())
    usual |= {"model": str(model.pretrained.directory), "index": str(rows), "top": 3, "method": "exact", "batch": 32}
    capsys.readouterr()
    search.main(SimpleNamespace(**usual | flags))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_command(model, tmp_path, capsys, one_device):
    rows = [{"id": number, "body": text} for number, text in enumerate(ROWS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_command(
        "search",
        f"--model={model.pretrained.directory}",
        "--index=rows.jsonl",
        "--query=a good film",
        "--text=body",
        "--top=3",
        "--store=kept",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    (wanted,) = model.search("a good film", ROWS, top=3)
    assert [(hit["id"], hit["body"], hit["row"]) for hit in printed] == [
        (hit["row"], hit["text"], hit["row"]) for hit in wanted
    ]
    assert [hit["score"] for hit in printed] == pytest.approx([hit["score"] for hit in wanted], abs=1e-6)
    (tmp_path / "asked.csv").write_text("question,hits\na good film,7\nthe cat sat,8\n")
    here = {"text": "body", "queries": str(tmp_path / "asked.csv"), "output": str(tmp_path / "out.jsonl")}
    (said,) = asked(model, tmp_path / "rows.jsonl", capsys, **here, query_text="question")
    assert said == {"queries": 2, "output": here["output"]}
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["question"] for line in lines] == ["a good film", "the cat sat"]
    assert [hit["row"] for hit in lines[0]["predicted_hits"]] == [hit["row"] for hit in wanted]
    assert [len(line["predicted_hits"]) for line in lines] == [3, 3]


def test_flags_that_do_not_fit(model, tmp_path, capsys, one_device):
    (tmp_path / "rows.csv").write_text("body\na film\n")
    one_or_several = "give --query=TEXT, or --queries=FILE with --output=FILE.jsonl"
    for flags, message in (
        ({}, one_or_several),
        ({"query": "a", "queries": "b.csv"}, one_or_several),
        ({"queries": "b.csv"}, one_or_several),
        ({"query": "a"}, "no column 'text'.*Name the right one with --text$"),
        ({"query": "a", "text": "body", "query_prompt": "x"}, "there is no prompt 'x'"),
        ({"query": "a", "text": "body", "store": str(tmp_path / "no/where")}, "there is no directory .*no for where"),
    ):
        with pytest.raises(UserError, match=message):
            asked(model, tmp_path / "rows.csv", capsys, **flags)


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_a_table_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    monkeypatch.setenv("COLUMNS", "100")
    terminal.print_records(
        [{"text": "[b]a\x1b[31m film[/b]", "score": 0.25}, {"text": "x" * 999, "n": 7, "tags": ["ö"]}]
    )
    text = screen.getvalue()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert cells[0] == ["[b]a [31m film[/b]", "0.2500", "", ""]
    assert cells[1][2:] == ["7", '["ö"]'] and text.count("x") == 298  # one of them in the heading
    heading = text.splitlines()[1]
    assert all(name in heading for name in ("text", "score", "n", "tags"))
    assert "31m film" in text and "\x1b[31m" not in text
