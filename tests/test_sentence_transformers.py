"""Directories of sentence-transformers: their vectors are that library's own, and what is written back loads there."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from conftest import TEXTS
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

import jaxft
from jaxft.config import Config, Eval, Mesh
from jaxft.data import Data
from jaxft.evaluation.breakdown import Breakdown
from jaxft.models.checkpoint.sentence_transformers import MODES, read_embedding
from jaxft.problems import UserError
from jaxft.tasks.contrastive_embedding import ContrastiveEmbedding, Triplet
from jaxft.training.export import export_state
from jaxft.training.run import precision
from jaxft.training.saved_run import evaluate_all, evaluate_model
from jaxft.training.setup import build

ASKED = [*TEXTS, "The Cat"]
PROMPTS = {"query": "a good film: ", "long": "the dog sat on the log "}
CASES = {
    **{mode: {"pooling": mode} for mode in MODES.values()},
    "two modes": {"pooling": ("max", "cls")},
    "a length": {"length": 7},
    "normalised": {"behind": lambda width: [Normalize()]},
    "dense": {
        "behind": lambda width: [
            Dense(width, 10),
            Normalize(),
            Dense(10, 5, bias=False, activation_function=torch.nn.Identity()),
        ]
    },
    **{
        f"dense, {act.__name__}": {"behind": lambda width, act=act: [Dense(width, 7, activation_function=act())]}
        for act in (torch.nn.ReLU, torch.nn.GELU, torch.nn.SiLU, torch.nn.Sigmoid)
    },
    "a prompt": {"prompts": PROMPTS, "default_prompt_name": "query"},
    **{
        f"a prompt that is left out, {mode}": {
            "pooling": mode,
            "prompts": PROMPTS,
            "default_prompt_name": "query",
            "include": False,
        }
        for mode in MODES.values()
    },
}


@pytest.fixture(scope="module")
def backbone(tiny_bert, tmp_path_factory):
    """A directory of the encoder alone, float32."""
    made = tmp_path_factory.mktemp("backbone")
    shutil.copytree(tiny_bert, made, dirs_exist_ok=True)
    transformers.AutoModel.from_pretrained(tiny_bert, add_pooling_layer=False).save_pretrained(made)
    return made


def written(directory, backbone, pooling="mean", length=64, behind=lambda width: [], include=True, **more):
    """The library's own model, which is then in `directory` as well."""
    first = Transformer(str(backbone), max_seq_length=length)
    pool = Pooling(24, pooling_mode=pooling, include_prompt=include)
    torch.manual_seed(0)
    modules = [first, pool, *behind(pool.get_embedding_dimension())]
    model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu", **more)
    model.save(str(directory))
    return model


def vectors(model, texts=ASKED, **how) -> np.ndarray:
    return np.array([answer["embedding"] for answer in model.predict(texts, **how)])


def test_vectors_are_the_librarys(backbone, tmp_path, one_device):
    """Whatever the modules; and a copy that jaxft writes has the same files, and loads there."""
    parent = jaxft.load(str(backbone), "none")
    for number, (name, case) in enumerate(CASES.items()):
        theirs = written(tmp_path / str(number), backbone, **case)
        ours = jaxft.load(str(tmp_path / str(number)))
        ours._forward = parent._forward  # the same model: compiled once
        np.testing.assert_allclose(vectors(ours), theirs.encode(ASKED), atol=2e-5, rtol=0, err_msg=name)
        if "prompts" in case:
            for prompt in ("long", "query"):
                wanted = theirs.encode(ASKED, prompt_name=prompt)
                np.testing.assert_allclose(vectors(ours, prompt_name=prompt), wanted, atol=2e-5, rtol=0)
            assert np.abs(vectors(ours, prompt_name="") - theirs.encode(ASKED, prompt="")).max() < 2e-5
            with pytest.raises(UserError, match="there is no prompt 'x'"):
                vectors(ours, prompt_name="x")
        ours.save(tmp_path / "copy")
        for file in ours.embedding.files:
            assert (tmp_path / "copy" / file).read_bytes() == (tmp_path / str(number) / file).read_bytes()
        again = sentence_transformers.SentenceTransformer(str(tmp_path / "copy"), device="cpu")
        np.testing.assert_array_equal(again.encode(ASKED), theirs.encode(ASKED))


def test_older_files(backbone, tmp_path, one_device):
    """Truth values instead of a mode's name, former names of the modules, lower case, no more files than needed."""
    for flags in (
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {},
        {"pooling_mode_max_tokens": True},
    ):
        shutil.rmtree(tmp_path / "old", ignore_errors=True)
        theirs = written(tmp_path / "old", backbone)
        settings = {"word_embedding_dimension": 24} | flags
        (tmp_path / "old/1_Pooling/config.json").write_text(json.dumps(settings))
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds.items())
        ]
        (tmp_path / "old/modules.json").write_text(json.dumps(modules))
        (tmp_path / "old/config_sentence_transformers.json").unlink()
        (tmp_path / "old/sentence_bert_config.json").write_text('{"max_seq_length": 9, "do_lower_case": true}')
        tokenizer = json.loads((tmp_path / "old/tokenizer.json").read_text())
        tokenizer["normalizer"]["lowercase"] = False
        (tmp_path / "old/tokenizer.json").write_text(json.dumps(tokenizer))
        theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "old"), device="cpu")
        ours = jaxft.load(str(tmp_path / "old"))
        np.testing.assert_allclose(vectors(ours), theirs.encode(ASKED), atol=2e-5, rtol=0)
        assert ours.longest == 9


TRAINED = {
    "contrast": ContrastiveEmbedding(text="a", pair="p"),
    "triplet": Triplet(text="a", pair="p", negative="n", pooling="first"),
}


@pytest.mark.parametrize("task", TRAINED.values(), ids=TRAINED)
def test_a_trained_model_loads_there(task, backbone, tmp_path, one_device, caplog):
    """With the base's normalisation; the prompts stay, but none is the default, since training had none."""
    written(
        tmp_path / "base", backbone, behind=lambda width: [Normalize()], prompts=PROMPTS, default_prompt_name="query"
    )
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps({"a": TEXTS[i % 5], "p": TEXTS[(i + 2) % 5][:20], "n": TEXTS[(i + 3) % 5][5:]}) + "\n"
            for i in range(6)
        )
    )
    data = Data(path=str(tmp_path / "rows.jsonl"))
    cfg = Config(
        model=str(tmp_path / "base"),
        task=task,
        data=data,
        evals={"val": Eval(data=data)},
        lr=1e-3,
        batch=6,
        steps=1,
        max_len=12,
        mesh=Mesh(data=1),
    )
    built = build(cfg)
    assert built.task.normalize and built.task.pooling == (task.pooling or "mean")
    assert "puts the prompt 'a good film: ' in front of texts, training does not" in caplog.text
    assert ("pools by mean: the task's pooling is first" in caplog.text) == (task.pooling == "first")
    with jax.set_mesh(built.mesh), precision(built):
        trained, frozen, _ = built.load()
        trained = {path: x + 0.01 for path, x in trained.items()}
        results = evaluate_all(built, trained, frozen, Breakdown())
        export_state(built, {**trained, **frozen}, tmp_path / "model", 1, results)
    ours = jaxft.load(str(tmp_path / "model"))
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    found = vectors(ours)
    np.testing.assert_allclose(found, theirs.encode(ASKED), atol=2e-5, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert theirs.max_seq_length == 12 and theirs.prompts["long"] == PROMPTS["long"] and ours.longest == 12
    assert evaluate_model(cfg, str(tmp_path / "model"))["val"]["accuracy"] == pytest.approx(results["val"]["accuracy"])
    if task.pooling == "first":  # distances of vectors of length 1, as sentence-transformers would measure them
        anchor, near, far = (theirs.encode([row[key] for row in data.open()[:]]) for key in "apn")
        closer = np.linalg.norm(anchor - far + 1e-6, axis=1) - np.linalg.norm(anchor - near + 1e-6, axis=1)
        loss = np.maximum(5.0 - closer, 0).mean()
        assert results["val"]["loss"] == pytest.approx(loss, abs=1e-4)


def test_what_is_not_supported_is_named(backbone, tmp_path, one_device):
    written(tmp_path / "good", backbone, behind=lambda width: [Dense(width, 5)])

    def refused(changes: dict, removed=()) -> str:
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        for name, change in changes.items():
            value = json.loads((tmp_path / "bad" / name).read_text())
            value = change if isinstance(change, list) else value | change
            (tmp_path / "bad" / name).write_text(json.dumps(value))
        for name in removed:
            (tmp_path / "bad" / name).unlink()
        with pytest.raises(UserError) as found:
            jaxft.load(str(tmp_path / "bad"))
        return str(found.value)

    modules = json.loads((tmp_path / "good/modules.json").read_text())
    other = [modules[0], modules[1], {**modules[2], "type": "sentence_transformers.models.LSTM"}]
    assert "the module 'LSTM' is not supported, only Transformer, Pooling, Dense, Normalize" in refused(
        {"modules.json": other}
    )
    assert "the module 'own.Dense' is not supported" in refused(
        {"modules.json": [*modules[:2], {**modules[2], "type": "own.Dense"}]}
    )
    assert "the modules Transformer, Dense, Pooling are not supported" in refused(
        {"modules.json": [modules[0], modules[2], modules[1]]}
    )
    assert "the path '../x' is not a folder" in refused(
        {"modules.json": [*modules[:2], {**modules[2], "path": "../x"}]}
    )
    assert "the pooling 'median' is not supported, only cls, max, mean" in refused(
        {"1_Pooling/config.json": {"pooling_mode": "median"}}
    )
    assert "has no tensor linear.weight (5, 9)" in refused({"2_Dense/config.json": {"in_features": 9}})
    assert "a Dense module takes 24 numbers, not 48" in refused(
        {"1_Pooling/config.json": {"pooling_mode": ["cls", "mean"]}}
    )
    assert "the activation 'os.system' is not supported" in refused(
        {"2_Dense/config.json": {"activation_function": "os.system"}}
    )
    assert "use_residual is not supported" in refused({"2_Dense/config.json": {"use_residual": True}})
    assert "a module of sentence_embedding, token_embeddings" in refused(
        {"2_Dense/config.json": {"module_input_name": "token_embeddings"}}
    )
    assert "has no weights" in refused({}, ["2_Dense/model.safetensors"])
    assert "2_Dense/config.json cannot be read" in refused({}, ["2_Dense/config.json"])
    assert "max_seq_length is 0" in refused({"sentence_bert_config.json": {"max_seq_length": 0}})
    assert "a 'SparseEncoder' is not supported" in refused(
        {"config_sentence_transformers.json": {"model_type": "SparseEncoder"}}
    )
    assert "there is no prompt 'q'" in refused({"config_sentence_transformers.json": {"default_prompt_name": "q"}})
    for pooling, behind, message in (
        ("mean", lambda width: [Dense(width, 5)], "has a Dense module, which these tasks do not train"),
        ("max", lambda width: [], "pools by max, which these tasks do not train: set config.task.pooling"),
    ):
        shutil.rmtree(tmp_path / "good")
        written(tmp_path / "good", backbone, pooling=pooling, behind=behind)
        setting = SimpleNamespace(max_len=8, embedding=read_embedding(tmp_path / "good"))
        with pytest.raises(UserError, match=message):
            ContrastiveEmbedding().prepare([], setting)
