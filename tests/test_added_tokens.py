"""Tokens that a checkpoint does not know: rows for them, in the model, in its directory and in its tokenizer."""

import re

import numpy as np
import pytest
import torch
import transformers
from conftest import bert_config, save_perturbed, wordpiece
from runs import write_rows
from safetensors.numpy import load_file
from zoo import make

import jaxft
from jaxft.config import Config
from jaxft.data import Data, Pad
from jaxft.models.checkpoint.load import ResizedEmbedding, find_weights, place
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.checkpoint.save import save_model
from jaxft.models.model import Model
from jaxft.models.params import names, shardings, variables
from jaxft.parallel.mesh import make_mesh
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.tasks.lm import CausalLM
from jaxft.tasks.mlm import MaskedLM
from jaxft.training.fit import fit
from jaxft.training.setup import build
from jaxft.tune.bitfit import Bitfit

WORDS = ("<tool>", "Zürich", "film")  # the last is known already to some
INPUTS = ("word_embeddings.weight", "wte.weight", "embed_tokens.weight")
TABLES = (*INPUTS, "predictions.bias", "lm_head.weight")


def config(model, tmp_path, task, **more):
    data = Data(path=write_rows(tmp_path / "rows.csv", 9))
    plain = {"lr": 1e-3, "batch": 4, "steps": 2, "max_len": 32, "batching": Pad(buckets=(32,)), "add_tokens": WORDS}
    return Config(**{"model": str(model), "task": task, "data": data} | plain | more)


@pytest.mark.parametrize(
    "family, task, tables",
    [
        ("bert", MaskedLM(), 2),  # the output is tied, its bias is not
        ("gpt2", CausalLM(), 1),
        ("llama", CausalLM(), 2),
        ("llama", Classify(label="label"), 1),
    ],
)
def test_training_with_more_tokens(family, task, tables, families, tmp_path, one_device):
    cfg = config(families[family], tmp_path, task)
    built = build(cfg)
    params, _, report = built.load()
    params = {
        name: np.asarray(a)
        for path, array in params.items()
        for name, a in zip(names(built.model, path), array if "segments" in path else [array], strict=True)
    }
    before = load_file(families[family] / "model.safetensors")
    known = transformers.AutoTokenizer.from_pretrained(families[family])
    more = len(set(WORDS) - known.get_vocab().keys())
    assert report.tokens == more and f"new rows for {more} more tokens" in str(report)
    old = before[next(name for name in before if name.endswith(INPUTS))]
    found = params["embed.tokens.embedding"]
    np.testing.assert_array_equal(found[: len(old)], old)
    assert found.shape == (len(old) + more, old.shape[1])
    # transformers draws them around the mean too.
    theirs = transformers.AutoModel.from_pretrained(families[family])
    theirs.resize_token_embeddings(len(found))
    wanted = theirs.get_input_embeddings().weight.detach().numpy()[len(old) :]
    np.testing.assert_allclose(found[len(old) :], wanted, atol=0.06 * old.std())
    assert len(np.unique(found[len(old) :], axis=0)) == more

    fit(cfg, str(tmp_path / "run"))
    out = tmp_path / "run" / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert all(len(tokenizer.encode(word, add_special_tokens=False)) == 1 for word in WORDS)
    after = load_file(out / "model.safetensors")
    assert {name for name in before if name in after and before[name].shape != after[name].shape} == {
        name for name in before if name in after and name.endswith(TABLES)
    }
    assert sum(len(array) == len(tokenizer) for name, array in after.items() if name.endswith(TABLES)) == tables
    ours = jaxft.load(str(out))
    auto = {"masked-lm": transformers.AutoModelForMaskedLM, "causal-lm": transformers.AutoModelForCausalLM}
    theirs = auto.get(task.head, transformers.AutoModelForSequenceClassification).from_pretrained(out)
    assert theirs.config.vocab_size == len(found)
    ids = np.array([tokenizer.encode("a <tool> film in Zürich")])
    assert ids.max() >= len(old)
    with torch.no_grad():
        logits = theirs(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(ours(ids).logits, logits, atol=1e-5 * max(1, np.abs(logits).max()))


@pytest.mark.parametrize("family", ["bart", "marian", "t5", "electra"])
def test_tables_that_the_sides_share(family, tmp_path, one_device):
    """And biases that do not train: transformers takes it all, and computes the same."""
    head = "masked-lm" if family == "electra" else "seq2seq-lm"
    more = {"decoder_vocab_size": 125} if family == "marian" else {}
    theirs = make(family, head, tmp_path / "a", **more)
    pretrained = open_pretrained(str(tmp_path / "a"))
    arch = architecture(pretrained, vocabulary=128)
    model = Model(arch.spec, arch.head)
    views, report = find_weights(model, pretrained, arch, "pretrained")
    mesh = make_mesh({"data": 1})
    params = place(model, views, shardings(model, mesh), dict.fromkeys(variables(model), np.float32), 0)
    save_model(tmp_path / "b", model, params, pretrained, arch)
    assert report.tokens == 3
    before, (found, info) = theirs, type(theirs).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.arange(5, 14)[None]
    given = {"input_ids": ids} | ({} if family == "electra" else {"decoder_input_ids": ids[:, :4]})
    with torch.no_grad():
        old, new = before(**given).logits, found.eval()(**given).logits
    torch.testing.assert_close(new[..., :125], old, rtol=0, atol=1e-6)
    assert new.shape[-1] == 128
    if family != "electra":
        given = {name: array.numpy() for name, array in given.items()}
        np.testing.assert_allclose(jaxft.load(str(tmp_path / "b"))(**given).logits, new.numpy(), atol=1e-5)


def test_the_seed_decides(tiny_bert, tmp_path, one_device):
    rows = []
    for seed in (0, 0, 1):
        params, _, _ = build(config(tiny_bert, tmp_path, MaskedLM(), seed=seed)).load()
        rows.append(np.asarray(params["embed.tokens.embedding"])[-2:])
    assert np.array_equal(rows[0], rows[1]) and not np.array_equal(rows[0], rows[2])


def test_every_device_gets_its_share(tiny_bert, tmp_path):
    """Rows of the table are split where neither the old ones nor the new ones end."""
    from jaxft.config import Mesh

    cfg = config(tiny_bert, tmp_path, MaskedLM(), batch=8, mesh=Mesh(data=1, fsdp=4, tensor=2))
    size = build(cfg).arch.spec.embed.vocab
    cfg = config(tiny_bert, tmp_path, MaskedLM(), batch=8, mesh=cfg.mesh, add_tokens=(*WORDS, *"ÄÖÜ"[: -size % 2]))
    shared, _, _ = build(cfg).load()
    alone, _, _ = build(config(tiny_bert, tmp_path, MaskedLM(), batch=8, add_tokens=cfg.add_tokens)).load()
    for path, array in alone.items():
        np.testing.assert_array_equal(shared[path], array)


def test_any_piece_of_a_table_with_more_rows():
    whole = np.arange(24).reshape(8, 3)
    table = ResizedEmbedding(whole[:5], whole[5:])
    assert table.shape == whole.shape
    for start in range(8):
        for stop in range(start + 1, 9):
            np.testing.assert_array_equal(table[slice(start, stop), slice(1, 3)], whole[start:stop, 1:3])
    np.testing.assert_array_equal(table[slice(None), slice(None)], whole)


def test_a_tokenizer_that_knows_more_already(bert_tokenizer, tmp_path, one_device):
    theirs = transformers.BertForMaskedLM(bert_config(bert_tokenizer))
    larger = wordpiece()
    larger.add_tokens(list(WORDS[:2]))
    save_perturbed(theirs, larger, tmp_path / "model")
    with pytest.raises(UserError, match="'Zürich' with id .* name all of them in config.add_tokens"):
        build(config(tmp_path / "model", tmp_path, MaskedLM(), add_tokens=("<tool>",)))
    built = build(config(tmp_path / "model", tmp_path, MaskedLM(), add_tokens=WORDS[:2]))
    assert built.arch.spec.embed.vocab == len(larger) and built.arch.stored_vocab == len(larger) - 2


def test_rows_that_would_not_train(tiny_bert, tmp_path, one_device):
    with pytest.raises(UserError, match=re.escape("Let embed.tokens train as well")):
        build(config(tiny_bert, tmp_path, MaskedLM(), tune=Bitfit()))
