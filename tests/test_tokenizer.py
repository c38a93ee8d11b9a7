"""The tokenizer of a model directory: what is refused and why, numbers beyond the tables, tokens it does not know."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import transformers
from conftest import bert_config, save_perturbed
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.convert_slow_tokenizer import import_protobuf

import jaxft
from jaxft.assets import path
from jaxft.config import Config
from jaxft.data import Data
from jaxft.models.checkpoint.pretrained import tokenizer_of
from jaxft.models.checkpoint.tokenizer import padding_id, unknown_id
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.tasks.mlm import MaskedLM
from jaxft.tasks.pretrain import NextSentence
from jaxft.training.run import train_batches
from jaxft.training.setup import build


def message(call, *args) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    return str(caught.value)


def changed(directory, target, settings=None, **parts):
    """A copy of a model directory: `settings` of tokenizer_config.json changed, and parts of tokenizer.json."""
    shutil.copytree(directory, target)
    for name, changes in (("tokenizer_config.json", settings or {}), ("tokenizer.json", parts)):
        old = json.loads((target / name).read_text())
        (target / name).write_text(json.dumps(old | {key: new(old) for key, new in changes.items()}))
    return target


def run_of(model, rows, tmp_path, **more):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = {"task": Classify(), "lr": 1e-3, "batch": 8, "steps": 2, "max_len": 16}
    return Config(model=str(model), data=Data(path=str(tmp_path / "rows.jsonl")), **(plain | more))


ROWS = [{"text": "the cat", "pair": "the dog", "label": i % 2} for i in range(8)]


# --- what cannot be read ---


def test_no_fast_version(tmp_path):
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    said = message(tokenizer_of, tmp_path, 384)
    assert "no fast version of ByT5Tokenizer" in said and "copy" not in said


def sentencepiece_file(file):
    """A SentencePiece model of letters, as DeBERTa v3's spm.model is one of pieces."""
    proto = import_protobuf().ModelProto()
    kinds = {"[PAD]": 3, "[CLS]": 3, "[SEP]": 3, "[UNK]": 2}
    for number, piece in enumerate([*kinds, "\u2581", "\u2581the", *"abcdefghijklmnopqrstuvwxyz"]):
        proto.pieces.add(piece=piece, score=-float(number), type=kinds.get(piece, 1))
    proto.trainer_spec.model_type, proto.trainer_spec.unk_id = 1, 3
    proto.trainer_spec.bos_id = proto.trainer_spec.eos_id = proto.trainer_spec.pad_id = -1
    proto.normalizer_spec.name = "identity"
    file.write_bytes(proto.SerializeToString())


def test_a_sentencepiece_file_alone(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    sentencepiece_file(tmp_path / "spm.model")
    made = tokenizer_of(tmp_path, 64)
    assert made.is_fast and made.tokenize("the cab") == ["\u2581the", "\u2581", "c", "a", "b"]
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sentencepiece" else there(name))
    said = message(tokenizer_of, tmp_path, 64)
    assert "spm.model" in said and "pip install sentencepiece" in said and "tiktoken" not in said


def test_a_class_that_transformers_does_not_have(tiny_bert, tmp_path):
    size = len(transformers.AutoTokenizer.from_pretrained(tiny_bert))
    for number, name in enumerate(("FooTokenizer", 5)):
        directory = changed(tiny_bert, tmp_path / str(number), {"tokenizer_class": lambda old, name=name: name})
        said = message(tokenizer_of, directory, size)
        assert f"no tokenizer_class {name!r}" in said and "write 'PreTrainedTokenizerFast'" in said
    fixed = changed(tiny_bert, tmp_path / "fixed", {"tokenizer_class": lambda old: "PreTrainedTokenizerFast"})
    assert tokenizer_of(fixed, size)("the cat")["input_ids"] == tokenizer_of(tiny_bert, size)("the cat")["input_ids"]
    (fixed / "tokenizer_config.json").write_text("[]")
    assert "does not hold a JSON object" in message(tokenizer_of, fixed, size)


def test_two_tokens_of_one_number(tiny_bert, tmp_path):
    def twice(old):
        known = old["model"]["vocab"]
        return old["model"] | {"vocab": known | {"cat": known["the"]}}

    said = message(tokenizer_of, changed(tiny_bert, tmp_path / "a", model=twice), 999)
    assert "gives 2 tokens the id" in said and "'cat', 'the'" in said


def test_no_unknown_token_where_one_is_needed(tiny_bert, tmp_path):
    def without(old):
        return old["model"] | {"vocab": {key: n for key, n in old["model"]["vocab"].items() if key != "[UNK]"}}

    kept = {"added_tokens": lambda old: [one for one in old["added_tokens"] if one["content"] != "[UNK]"]}
    directory = changed(tiny_bert, tmp_path / "a", {"unk_token": lambda old: None}, model=without, **kept)
    said = message(tokenizer_of, directory, 999)
    assert "fails at unknown characters" in said and "add its unknown token to the vocabulary" in said


def bare(directory, **names):
    """A Llama whose tokenizer knows three words, with neither a padding token nor an end of text."""
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names)
    return save_perturbed(transformers.LlamaForSequenceClassification(config), made, directory)


def test_neither_padding_nor_end_of_text(tmp_path, one_device):
    """Rows are filled with token 0, which attention does not see: PyTorch's scores of the text alone are right."""
    model = bare(tmp_path / "model")
    batch = train_batches(
        build(run_of(model, [{"text": "a b a", "label": 0}, {"text": "a", "label": 1}] * 4, tmp_path))
    )[0]
    lengths = (batch["segments"] > 0).sum(1)
    assert sorted(lengths) == [1] * 4 + [3] * 4 and (batch["tokens"][batch["segments"] == 0] == 0).all()
    theirs = transformers.LlamaForSequenceClassification.from_pretrained(model)
    for text, one in zip(("a b a", "a"), jaxft.load(str(model)).predict(["a b a", "a"]), strict=True):
        ids = tokenizer_of(model, 20)(text, return_tensors="pt")["input_ids"]
        shares = theirs(ids).logits.softmax(-1).detach().numpy()[0]
        assert one["score"] == pytest.approx(shares.max(), abs=1e-5)


# --- numbers beyond the tables ---


def test_a_post_processor_that_adds_a_token_beyond_the_embeddings(tiny_bert, tmp_path, one_device):
    def beyond(old):
        known = old["post_processor"]["special_tokens"]
        return old["post_processor"] | {"special_tokens": known | {"[CLS]": known["[CLS]"] | {"ids": [999]}}}

    directory = changed(tiny_bert, tmp_path / "a", post_processor=beyond)
    size = len(transformers.AutoTokenizer.from_pretrained(tiny_bert))
    wanted = f"tokens reach 999, but the model has {size} of them (from 0)"
    for task in (Classify(), MaskedLM(), NextSentence()):
        built = build(run_of(directory, ROWS, tmp_path, task=task))
        assert wanted in message(built.encode, "train")
    model = jaxft.load(str(directory))
    assert wanted in message(model.predict, ["the cat"]) and wanted in message(jaxft.explain, model, "the [MASK]")


@pytest.fixture(scope="module")
def one_type(tmp_path_factory, bert_tokenizer):
    """Directory of a BertForSequenceClassification with one text type, whose tokenizer gives two."""
    config = bert_config(bert_tokenizer, layers=1, type_vocab_size=1)
    model = transformers.BertForSequenceClassification(config)
    return save_perturbed(model, bert_tokenizer, tmp_path_factory.mktemp("one"))


def test_text_types_beyond_the_table(one_type, tmp_path, one_device):
    """PyTorch raises IndexError; the fix that the message names makes both give the same scores."""
    wanted = "types reach 1, but the model has 1 of them (from 0)"
    cfg = run_of(one_type, ROWS, tmp_path, task=Classify(pair="pair"))
    assert wanted in message(build(cfg).encode, "train")
    model = jaxft.load(str(one_type))
    pair = ("the cat", "the dog")
    assert wanted in message(model.predict, [pair]) and wanted in message(jaxft.explain, model, pair)
    single = build(run_of(one_type, ROWS, tmp_path)).encode("train")
    assert not single.flat["types"].any()
    names = {"model_input_names": lambda old: ["input_ids", "attention_mask"]}
    fixed = changed(one_type, tmp_path / "fixed", names)
    assert "types" not in build(run_of(fixed, ROWS, tmp_path, task=Classify(pair="pair"))).encode("train").flat
    theirs = transformers.BertForSequenceClassification.from_pretrained(fixed)
    inputs = transformers.AutoTokenizer.from_pretrained(fixed)(*pair, return_tensors="pt")
    shares = theirs(**inputs).logits.softmax(-1).detach().numpy()[0]
    assert jaxft.load(str(fixed)).predict([pair])[0]["score"] == pytest.approx(shares.max(), abs=1e-5)


class Beyond(MaskedLM):
    """A task of a user's own, whose random tokens are not all of the vocabulary."""

    def random_transform(self, example, rng, setting):
        drawn = MaskedLM.random_transform(self, example, rng, setting)
        return drawn | {"tokens": drawn["tokens"] + 900}


def test_what_a_task_draws_is_checked_as_well(tiny_bert, tmp_path, one_device):
    built = build(run_of(tiny_bert, ROWS, tmp_path, task=MaskedLM()))
    encoded = built.encode("train")
    built.random_transform(encoded[0], np.random.default_rng(0))
    built.task = Beyond()
    assert "tokens reach 9" in message(built.random_transform, encoded[0], np.random.default_rng(0))


def test_random_tokens_are_those_of_the_vocabulary(tiny_bert, tmp_path, one_device):
    """Numbers between those of the tokens belong to no token."""

    def sparse(old):
        known = old["model"]["vocab"]
        return old["model"] | {"vocab": {key: n for key, n in known.items() if n % 3 or n < 5 or key == "cat"}}

    directory = changed(tiny_bert, tmp_path / "a", model=sparse)
    setting = build(run_of(directory, ROWS, tmp_path, task=MaskedLM())).setting
    known = set(setting.tokenizer.get_vocab().values()) - set(setting.tokenizer.all_special_ids)
    assert set(setting.ordinary_ids.tolist()) == known and len(known) < len(setting.tokenizer)


def test_masking_needs_a_mask(tmp_path, tiny_bert, one_device):
    directory = changed(tiny_bert, tmp_path / "a", {"mask_token": lambda old: None})
    for task in (MaskedLM(), NextSentence()):
        assert "the tokenizer has no mask token" in message(build, run_of(directory, ROWS, tmp_path, task=task))


# --- tokens that stand for what the tokenizer does not know ---

CHINESE = "\u4eca\u5929\u5929\u6c14\u5f88\u597d"


def test_the_share_of_unknown_tokens(tmp_path, one_device):
    tiny = path("tiny-encoder")
    texts = ["the cat sat"] * 6 + [CHINESE]  # each of its letters is a token that BERT does not know
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    report = build(run_of(tiny, rows, tmp_path)).encode("train").report
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    every = [token for text in texts for token in tokenizer.tokenize(text)]
    assert (report.unknown, report.ordinary) == (every.count("[UNK]"), len(every)) == (6, 24)
    assert "unknown to the tokenizer: 6, 25.0%" in str(report)
    assert "unknown" not in str(build(run_of(tiny, rows[:6], tmp_path)).encode("train").report)


def test_a_file_in_another_script_stops_the_run(tmp_path, one_device):
    rows = [{"text": CHINESE, "label": i % 2} for i in range(8)]
    said = message(build(run_of(path("tiny-encoder"), rows, tmp_path)).encode, "train")
    assert "train: 48 of 48 tokens (100.0%) are unknown to the tokenizer" in said and "max_unknown allows 50.0%" in said
    assert len(build(run_of(path("tiny-encoder"), rows, tmp_path, max_unknown=1.0)).encode("train")) == 8
    assert "config.max_unknown is 1.5, expected from 0 to 1" in message(
        build, run_of(path("tiny-encoder"), rows, tmp_path, max_unknown=1.5)
    )


def test_the_unknown_token_by_the_vocabularys_own_name(tmp_path):
    """tokenizer_config.json may be silent of it."""
    assert unknown_id(tokenizer_of(bare(tmp_path / "a"), 20)) == 0
    assert padding_id(tokenizer_of(bare(tmp_path / "b", pad_token="b", eos_token="a"), 20)) == 2
    assert padding_id(tokenizer_of(bare(tmp_path / "c", eos_token="a"), 20)) == 1


def test_prediction_says_how_much_it_does_not_know(tiny_classifier, caplog):
    model = jaxft.load(str(tiny_classifier))
    model.predict(["a film", "the cat"])
    assert "unknown" not in caplog.text
    model.predict(["a film", f"the cat {CHINESE}"])
    assert "6 of 10 tokens (60.0%) are unknown to the tokenizer" in caplog.text


def test_explain_marks_unknown_tokens(tiny_classifier):
    from jaxft.attribution.page import page, pieces

    found = jaxft.explain(jaxft.load(str(tiny_classifier)), "a film \u4eca cat")
    assert [token["token"] for token in found.numbers()["tokens"] if token["unknown"]] == ["[UNK]"]
    (marked,) = [piece for piece in pieces(found) if piece["kind"] == "unknown"]
    assert marked["text"] == "\u4eca" and "unknown to the tokenizer" in marked["tip"]
    html = page([found], "model")
    assert 'unknown"' in html and "[UNK] (unknown to the tokenizer)" in html
