"""`jaxft.load` as a user has it: what goes in, what comes out, what is refused, and answers to texts."""

import json
import shutil
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import TEXTS, bert_config, save_perturbed
from safetensors.numpy import load_file
from zoo import make

import jaxft
from jaxft.config import Config
from jaxft.data import Data, Pad
from jaxft.inference.answer_files import write_answers
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.parity_check.inputs import make_inputs
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.tasks.lm import CausalLM
from jaxft.training.setup import build, length_problems

AUTO = {
    "bert": transformers.AutoModelForMaskedLM,
    "gpt2": transformers.AutoModelForCausalLM,
    "llama": transformers.AutoModelForCausalLM,
}


@pytest.fixture(scope="module")
def loaded(families):
    with pytest.MonkeyPatch.context() as patch:  # one device here, eight for the classifier
        patch.setattr(jax, "device_count", lambda *backend: 1)
        return {family: jaxft.load(str(directory)) for family, directory in families.items()}


@pytest.fixture(scope="module")
def classifier(tiny_classifier):
    return jaxft.load(str(tiny_classifier))


def their_logits(model, texts, tokenizer) -> list[np.ndarray]:
    """Logits of a PyTorch model for each text by itself, so that padding has no part in it."""
    model = model.eval()
    with torch.no_grad():
        rows = [tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt") for text in texts]
        return [model(**row).logits[0].numpy() for row in rows]


def refused(call, *args, **more) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **more)
    return str(caught.value)


# --- arrays ---


def test_kinds_of_input(classifier):
    ids = np.random.default_rng(0).integers(5, 100, (2, 9))
    expected = classifier(ids, np.ones((2, 9), int), np.zeros((2, 9), int))
    assert expected.hidden.shape == (2, 9, 24) and expected.logits.shape == (2, 3)
    assert expected.hidden.dtype == expected.logits.dtype == jnp.float32
    places = np.tile(np.arange(9), (2, 1))
    for given in (
        (ids,),
        (ids.tolist(),),
        (jnp.array(ids),),
        (ids.astype(np.uint8), jnp.ones((2, 9), bool)),
        (torch.tensor(ids), torch.ones(2, 9)),
        (ids, None, None, places),
    ):
        out = classifier(*given)
        assert np.array_equal(out.logits, expected.logits) and np.array_equal(out.hidden, expected.hidden)
    types = np.zeros((2, 9), int)
    types[:, 4:] = 1
    assert np.abs(np.asarray(classifier(ids, token_type_ids=types).logits - expected.logits)).max() > 1e-3
    backwards = classifier(ids, position_ids=places[:, ::-1])
    assert np.abs(np.asarray(backwards.logits - expected.logits)).max() > 1e-3


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_decoder_reads_another_text(family, tmp_path, one_device):
    """Both texts padded, each on either side."""
    theirs = make(family, "seq2seq-lm", tmp_path)
    ours, rng = jaxft.load(str(tmp_path)), np.random.default_rng(0)
    source, target = rng.integers(5, 100, (2, 9)), rng.integers(5, 100, (2, 7))
    mask, target_mask = np.ones_like(source), np.ones_like(target)
    mask[0, :3] = mask[1, 7:] = target_mask[0, 5:] = target_mask[1, :2] = 0
    out = ours(source, mask, decoder_input_ids=target, decoder_attention_mask=target_mask)
    assert out.logits.shape == (2, 7, 125) and out.hidden.shape == (2, 7, 24) and out.memory.shape == (2, 9, 24)
    for row in range(2):
        texts = [torch.tensor(ids[row][m[row] > 0])[None] for ids, m in ((source, mask), (target, target_mask))]
        expected = theirs(texts[0], decoder_input_ids=texts[1])
        found = {"logits": out.logits[row][target_mask[row] > 0], "memory": out.memory[row][mask[row] > 0]}
        for name, wanted in {"logits": expected.logits, "memory": expected.encoder_last_hidden_state}.items():
            np.testing.assert_allclose(found[name], wanted[0].detach(), rtol=0, atol=1e-5 * wanted.abs().max().item())
    with pytest.raises(UserError, match="decoder_input_ids are missing: give the text that the decoder reads"):
        ours(source, mask)
    with pytest.raises(UserError, match=r"decoder_input_ids have shape \(1, 7\), their mask \(2, 7\): both must be"):
        ours(source, mask, decoder_input_ids=target[:1], decoder_attention_mask=target_mask)
    with pytest.raises(UserError, match="decoder_tokens reach 125, but the model has 125 of them"):
        ours(source, mask, decoder_input_ids=target + 125 - target.max())
    with pytest.raises(UserError, match="decoder_attention_mask is given without decoder_input_ids"):
        jaxft.load(str(tmp_path), head="question-answering")(source, decoder_attention_mask=target_mask)
    classifier = jaxft.load(str(tmp_path), head="sequence-classification")
    with pytest.raises(UserError, match="decoder_input_ids are given, but a sequence-classification model"):
        classifier(source, mask, decoder_input_ids=target)
    assert classifier.predict(["the cat sat", "a good film"])[1]["label"].startswith("LABEL_")


def test_images_and_sounds(tmp_path, one_device, classifier):
    """In the place of token numbers; of the shape that the model was made for."""
    rng = np.random.default_rng(0)
    theirs = make("vit", "image-classification", tmp_path / "vit")
    ours, pixels = jaxft.load(str(tmp_path / "vit")), rng.standard_normal((2, 3, 13, 10)).astype(np.float32)
    expected = theirs(pixel_values=torch.tensor(pixels)).logits.detach().numpy()
    out = ours(pixel_values=pixels)
    np.testing.assert_allclose(out.logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert out.hidden.shape == (2, 10, 24)  # 3 x 3 patches, and the whole
    with pytest.raises(UserError, match=r"pixel_values have shape \(2, 13, 10, 3\), expected \(batch, 3, 13, 10\)"):
        ours(pixel_values=pixels.transpose(0, 2, 3, 1))
    with pytest.raises(UserError, match="a vit model takes pixel_values and no other input"):
        ours([[5, 6]])
    with pytest.raises(UserError, match="attention_mask is given, but pixel_values have none"):
        ours(pixel_values=pixels, attention_mask=[[1]])
    with pytest.raises(UserError, match="predict does not know image-classification yet"):
        ours.predict(["a text"])
    with pytest.raises(UserError, match="^predict does not know image-classification yet"):  # not for every row
        write_answers(ours, [{"text": "a"}, {"text": "b"}], ["text"], 2, str(tmp_path / "out.jsonl"))
    with pytest.raises(UserError, match="predict reads texts, but this model takes pixel_values"):
        jaxft.load(str(tmp_path / "vit"), head="none").predict(["a text"])
    with pytest.raises(UserError, match="--input has texts, and this model reads pixel_values"):
        make_inputs(ours, ["a text"])
    (tmp_path / "d.csv").write_text("text,label\na,b\n")
    data = Data(path=str(tmp_path / "d.csv"))
    with pytest.raises(UserError, match="takes pixel_values: there are tasks for models that read texts only"):
        build(Config(model=str(tmp_path / "vit"), task=Classify(), data=data, lr=1e-3, batch=2, steps=1))
    with pytest.raises(UserError, match="a bert model takes input_ids and no other input"):
        classifier([[5, 6]], pixel_values=pixels)
    theirs = make("whisper", "seq2seq-lm", tmp_path / "whisper")
    ours, sound = jaxft.load(str(tmp_path / "whisper")), rng.standard_normal((2, 7, 22)).astype(np.float32)
    ids = rng.integers(5, 100, (2, 6))
    expected = theirs(input_features=torch.tensor(sound), decoder_input_ids=torch.tensor(ids)).logits.detach().numpy()
    found = ours(input_features=sound, decoder_input_ids=ids)
    np.testing.assert_allclose(found.logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert found.memory.shape == (2, 11, 24)
    with pytest.raises(UserError, match="decoder_input_ids are missing"):
        ours(input_features=sound)
    make("t5", "none", tmp_path / "t5")
    with pytest.raises(UserError, match="predict has no text for this model's decoder"):
        jaxft.load(str(tmp_path / "t5")).predict(["a text"])


def test_one_side_of_an_encoder_decoder(tmp_path, one_device):
    """The encoder of a sound and of a text, and a decoder that is given the text itself."""
    theirs = make("whisper", "audio-classification", tmp_path / "sound")
    sound = np.random.default_rng(0).standard_normal((2, 7, 22)).astype(np.float32)
    found = jaxft.load(str(tmp_path / "sound"))(input_features=sound)
    assert found.hidden.shape == (2, 11, 24) and found.logits.shape == (2, 5) and found.memory is None
    expected = theirs(input_features=torch.tensor(sound)).logits.detach().numpy()
    np.testing.assert_allclose(found.logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    ids, mask = np.random.default_rng(1).integers(5, 100, (2, 9)), np.ones((2, 9), np.int64)
    mask[1, 6:] = 0
    for family, head in (("t5", "token-classification"), ("whisper", "causal-lm")):
        theirs = make(family, head, tmp_path / family)
        ours = jaxft.load(str(tmp_path / family))
        found = ours(ids, mask)
        expected = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.detach().numpy()
        assert found.memory is None and found.logits.shape == expected.shape
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found.logits[mask > 0], expected[mask > 0], rtol=0, atol=atol)
        with pytest.raises(UserError, match="decoder_input_ids are given, but"):
            ours(ids, decoder_input_ids=ids)
        with pytest.raises(UserError, match="takes input_ids and no other input"):
            ours(input_features=sound)


def test_a_classifier_has_no_decoder_text(classifier):
    with pytest.raises(UserError, match="decoder_input_ids are given, but a sequence-classification model"):
        classifier([[5, 6]], decoder_input_ids=[[5, 6]])


@pytest.mark.parametrize("family", AUTO)
def test_padding_of_any_amount_on_either_side_changes_nothing(loaded, family):
    """A text of 13 tokens by itself, against rows of 16 and 37 with the text at the front, at the end, inside."""
    text = np.random.default_rng(1).integers(5, 100, 13)
    alone = np.asarray(loaded[family](text[None]).logits[0])
    ids, mask = np.zeros((3, 37), int), np.zeros((3, 37), int)
    starts = (0, 24, 11)
    for row, start in enumerate(starts):
        ids[row, start : start + 13], mask[row, start : start + 13] = text, 1
    rng = np.random.default_rng(2)
    ids[mask == 0] = rng.integers(5, 100, (mask == 0).sum())  # what stands in the padding does not matter
    logits = np.asarray(loaded[family](ids, mask).logits)
    for row, start in enumerate(starts):
        np.testing.assert_allclose(logits[row, start : start + 13], alone, rtol=0, atol=1e-5)
    short = np.asarray(loaded[family](ids[:1, :16], mask[:1, :16]).logits)
    np.testing.assert_allclose(short[0, :13], alone, rtol=0, atol=1e-5)


def test_classifiers_read_the_same_token_on_either_side(classifier, families, one_device):
    text = np.random.default_rng(1).integers(5, 100, 11)
    for model in (classifier, jaxft.load(str(families["gpt2"]), head="sequence-classification")):
        ids, mask = np.zeros((2, 16), int), np.zeros((2, 16), int)
        ids[0, :11], ids[1, 5:], mask[0, :11], mask[1, 5:] = text, text, 1, 1
        right, left = np.asarray(model(ids, mask).logits)
        alone = np.asarray(model(text[None]).logits[0])
        np.testing.assert_allclose(right, alone, rtol=0, atol=1e-5)
        np.testing.assert_allclose(left, alone, rtol=0, atol=1e-5)


def test_shapes_that_do_not_fit(classifier):
    ids = np.ones((2, 9), int)
    words = refused(classifier, ids, np.ones((2, 8)), np.ones(9), np.ones((3, 9)))
    assert "3 problems" in words and "attention_mask has shape (2, 8), input_ids has (2, 9)" in words
    assert "token_type_ids has shape (9,)" in words and "position_ids has shape (3, 9)" in words
    assert "(batch, length)" in refused(classifier, np.ones(9, int))
    assert "(batch, length)" in refused(classifier, np.ones((2, 3, 4), int))


@pytest.mark.parametrize("family", AUTO)
def test_numbers_beyond_a_tables_end(loaded, family):
    """JAX would take the last row without a word."""
    vocabulary = loaded[family].arch.spec.embed.vocab
    ids = np.full((2, 9), 7)
    ids[1, 3] = vocabulary
    words = refused(loaded[family], ids)
    assert f"tokens reach {vocabulary}" in words and f"the model has {vocabulary} of them" in words
    ids[1, 3] = -1
    assert "tokens reach" in refused(loaded[family], ids) and "-1" in refused(loaded[family], ids)
    long = np.full((1, 65), 7)
    if family == "llama":  # rotary positions have no table
        assert np.isfinite(np.asarray(loaded[family](long).logits)).all()
        return
    words = refused(loaded[family], long)
    assert "positions reach 64, but the model has 64" in words
    # What counts is the text, not the width of the row.
    mask = np.ones((1, 65), int)
    mask[0, 64] = 0
    assert np.isfinite(np.asarray(loaded[family](long, mask).logits)).all()
    if family == "bert":
        assert "types reach 2" in refused(loaded[family], long[:, :9], token_type_ids=np.full((1, 9), 2))


def test_lengths_are_checked_before_a_run(families):
    def found(family, **rows):
        cfg = Config(model="m", task=CausalLM(), data=Data(path="p"), lr=1e-3, batch=8, steps=1, **rows)
        return length_problems(cfg, architecture(open_pretrained(str(families[family]))))

    for family in ("bert", "gpt2"):
        assert found(family, max_len=64) == []
        (problem,) = found(family, max_len=65)
        assert "65 tokens" in problem and "64 positions" in problem
    assert found("llama", max_len=4000) == []
    assert found("gpt2", max_len=32, batching=Pad()) == []


# --- what may be asked for ---


def test_options(tiny_bert, tiny_gpt2, tmp_path):
    assert "dtype is 'float23', expected float32 or bfloat16. Did you mean 'float32'?" in refused(
        jaxft.load, str(tiny_bert), dtype="float23"
    )
    words = refused(jaxft.load, str(tiny_bert), head="maskedlm")
    assert "'maskedlm'" in words and "Did you mean 'masked-lm'?" in words
    assert "a bert model has no head 'seq2seq-lm', only none" in refused(jaxft.load, str(tiny_bert), head="seq2seq-lm")
    words = refused(jaxft.load, str(tiny_bert), head="seq2seqlm")
    assert "has no head 'seq2seqlm'" in words and "Did you mean 'seq2seq-lm'" not in words  # which it has not either
    assert "a gpt2 model has no head 'masked-lm'" in refused(jaxft.load, str(tiny_gpt2), head="masked-lm")
    assert "no config.json" in refused(jaxft.load, str(tmp_path))
    changes = {
        "reformer": {"model_type": "reformer"},
        "mine": {"model_type": "my-own"},
        "none": {"model_type": None},
        "qa": {"architectures": ["BertForNextSentencePrediction"]},
        "heads": {"num_attention_heads": "three"},
    }
    for name, change in changes.items():
        (tmp_path / name).mkdir()
        config = json.loads((tiny_bert / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(config | change))
    assert "model_type 'reformer' is not supported, only albert, bart, " in refused(
        jaxft.load, str(tmp_path / "reformer")
    )
    assert "model_type 'my_own' is not supported" in refused(jaxft.load, str(tmp_path / "mine"))
    assert "has no model_type" in refused(jaxft.load, str(tmp_path / "none"))
    assert "num_attention_heads" in refused(jaxft.load, str(tmp_path / "heads"))
    words = refused(jaxft.load, str(tmp_path / "qa"))
    assert "BertForNextSentencePrediction, whose head is not supported; choose one: none, seq" in words
    (tmp_path / "qa" / "config.json").write_text("{'model_type': 'bert'}")
    assert "config.json is not valid JSON" in refused(jaxft.load, str(tmp_path / "qa"))


@pytest.mark.parametrize("family", AUTO)
def test_bfloat16(loaded, family, families, tmp_path, one_device):
    """Computed in bfloat16, kept and saved in float32."""
    half = jaxft.load(str(families[family]), dtype="bfloat16")
    ids = np.random.default_rng(0).integers(5, 100, (2, 9))
    expected, out = np.asarray(loaded[family](ids).logits), half(ids)
    assert out.logits.dtype == out.hidden.dtype == jnp.float32
    error = np.abs(np.asarray(out.logits) - expected).max()
    assert 1e-6 < error < 0.05 * np.abs(expected).max()
    half.save(tmp_path / "a")
    before, after = load_file(families[family] / "model.safetensors"), load_file(tmp_path / "a" / "model.safetensors")
    assert before.keys() == after.keys() and all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_report(tiny_bert, loaded, one_device):
    assert str(loaded["bert"].report) == f"loaded {len(loaded['bert'].report.loaded)} tensors"
    model = jaxft.load(str(tiny_bert), head="sequence-classification")
    assert set(model.report.new) == {f"head.{m}.{p}" for m in ("out", "pooler.dense") for p in ("kernel", "bias")}
    assert all(name.startswith("cls.") for name in model.report.unused) and len(model.report.unused) == 5
    assert "newly initialised: head.out.bias" in str(model.report) and "unused: cls." in str(model.report)


@pytest.mark.parametrize(
    "family, pair", [("bert", "seq_relationship_logits"), ("albert", "sop_logits"), ("electra", None)]
)
def test_pretraining(family, pair, tmp_path, one_device):
    """Masked tokens and pairs, or replaced tokens, as transformers gives them."""
    theirs, model = make(family, "pretraining", tmp_path), jaxft.load(str(tmp_path), head="pretraining")
    ids, mask = np.random.default_rng(0).integers(5, 100, (2, 9)), np.ones((2, 9), np.int64)
    mask[1, 6:] = 0
    types = 1 * (np.arange(9) > 4) + np.zeros_like(ids)
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(x) for name, x in given.items()})
    out = model(**given)
    assert out.logits.dtype == jnp.float32 and out.logits.shape == expected[0].shape
    np.testing.assert_allclose(out.logits[mask > 0], expected[0][torch.tensor(mask) > 0], rtol=0, atol=1e-5)
    if pair is None:
        assert out.pair_logits is None
    else:
        assert out.pair_logits.dtype == jnp.float32
        np.testing.assert_allclose(out.pair_logits, expected[pair], rtol=0, atol=1e-5)


def test_choices(tmp_path, one_device):
    """Two questions of three choices, padded on the right and on the left: transformers' scores."""
    theirs, model = make("bert", "multiple-choice", tmp_path), jaxft.load(str(tmp_path))
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(5, 100, (2, 3, 13)), np.ones((2, 3, 13), np.int64)
    mask[0, 1, 8:], mask[1, 0, :5] = 0, 0
    places = np.maximum(np.cumsum(mask, -1) - 1, 0)
    types = rng.integers(0, 2, ids.shape)
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    given = dict(zip(names, (ids, mask, types, places), strict=True))
    out = model(**given)
    assert out.hidden.shape == (2, 3, 13, 24) and out.logits.shape == (2, 3)
    with torch.no_grad():
        hidden = theirs.base_model(**{name: torch.tensor(x).flatten(0, 1) for name, x in given.items()})[0]
        read = hidden[torch.arange(6), torch.tensor(mask).flatten(0, 1).argmax(1)]
        expected = theirs.classifier(torch.tanh(theirs.bert.pooler.dense(read))).reshape(2, 3)
        right = theirs(**{name: torch.tensor(x[:1]) for name, x in given.items()}).logits
    np.testing.assert_allclose(out.logits, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(out.logits[:1], right, rtol=0, atol=1e-5)
    real = mask.astype(bool)
    np.testing.assert_allclose(np.asarray(out.hidden)[real], hidden.reshape(2, 3, 13, 24)[real], rtol=0, atol=1e-5)
    assert "must be the same (batch, choices, length)" in refused(model, ids[0])


# --- answers ---

MANY = [*TEXTS, "a", "the cat", "good " * 30, "the dog sat on the good cat and the bad cat sat on the dog"]


def test_classes(classifier, tiny_classifier, bert_tokenizer):
    """Texts of one to thirty words, in batches of two: answers in the order of the texts, equal to PyTorch's."""
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_classifier)
    texts = [*MANY, ("the cat", "sat on the mat"), ("a good film", "and a bad one")]
    expected = their_logits(theirs, texts, bert_tokenizer)
    found = classifier.predict(texts, batch=2)
    assert len({round(answer["score"], 6) for answer in found}) == len(texts)
    for answer, logits in zip(found, expected, strict=True):
        scores = torch.tensor(logits).softmax(-1).numpy()
        assert answer == {
            "label": ["neg", "neu", "pos"][scores.argmax()],
            "score": pytest.approx(scores.max(), abs=1e-5),
        }
    again = classifier.predict(texts[::-1], batch=64)[::-1]
    assert [answer["label"] for answer in again] == [answer["label"] for answer in found]
    np.testing.assert_allclose([a["score"] for a in again], [a["score"] for a in found], atol=1e-6)
    assert classifier.predict([]) == []


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_numbers_and_several_labels(kind, bert_tokenizer, tmp_path, one_device):
    names = ["news", "sports", "arts"] if kind != "regression" else ["LABEL_0"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    theirs = transformers.BertForSequenceClassification(bert_config(bert_tokenizer, 2, problem_type=kind, **labels))
    save_perturbed(theirs, bert_tokenizer, tmp_path)
    expected = their_logits(theirs, TEXTS, bert_tokenizer)
    if kind == "multi_label_classification":
        # Move the biases so that some texts have no label, some several.
        median = np.median(expected, 0)
        with torch.no_grad():
            theirs.classifier.bias -= torch.tensor(median)
        theirs.save_pretrained(tmp_path)
        expected = their_logits(theirs, TEXTS, bert_tokenizer)
    found = jaxft.load(str(tmp_path)).predict(TEXTS)
    for answer, logits in zip(found, expected, strict=True):
        if kind == "regression":
            assert answer == {"value": pytest.approx(float(logits[0]), abs=1e-5)}
            continue
        scores = torch.tensor(logits).sigmoid().numpy()
        clear = np.abs(scores - 0.5) > 1e-4
        chosen = [name for name, score in zip(names, scores, strict=True) if score > 0.5]
        if clear.all():
            assert answer == {"labels": chosen, "scores": pytest.approx(scores[scores > 0.5].tolist(), abs=1e-5)}
    if kind != "regression":
        assert len({len(answer["labels"]) for answer in found}) > 1


def test_masked_tokens(loaded, tiny_bert, bert_tokenizer):
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tiny_bert)
    texts = ["the [MASK] sat on the [MASK]", "a film", "[MASK] great story and good actors and a good [MASK] [MASK]"]
    expected = their_logits(theirs, texts, bert_tokenizer)
    found = loaded["bert"].predict(texts)
    for answer, logits, text in zip(found, expected, texts, strict=True):
        at = np.flatnonzero(np.array(bert_tokenizer(text)["input_ids"]) == bert_tokenizer.mask_token_id)
        assert answer == {"tokens": bert_tokenizer.convert_ids_to_tokens(logits[at].argmax(-1).tolist())}
    assert [len(answer["tokens"]) for answer in found] == [2, 0, 3]


def test_embeddings(tiny_bert, tiny_llama, bert_tokenizer, llama_tokenizer, one_device):
    for directory, tokenizer in ((tiny_bert, bert_tokenizer), (tiny_llama, llama_tokenizer)):
        theirs = transformers.AutoModel.from_pretrained(directory).eval()
        found = jaxft.load(str(directory), head="none").predict(TEXTS)
        with torch.no_grad():
            rows = [tokenizer(text, return_tensors="pt") for text in TEXTS]
            expected = [theirs(**row).last_hidden_state[0].mean(0).numpy() for row in rows]
        np.testing.assert_allclose([answer["embedding"] for answer in found], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_perplexity(loaded, families, family):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(families[family]).eval()
    tokenizer = loaded[family].tokenizer
    texts = [*TEXTS, "a"]
    found = loaded[family].predict(texts, batch=4)
    for answer, text in zip(found, texts, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        if ids.shape[1] < 2:
            assert answer == {"perplexity": None}
            continue
        with torch.no_grad():
            expected = theirs(input_ids=ids, labels=ids).loss.exp().item()
        assert answer == {"perplexity": pytest.approx(expected, rel=1e-5)}
    assert family == "llama" or found[-1] == {"perplexity": None}


def test_long_texts_are_cut_to_what_the_model_takes(classifier, bert_tokenizer, tiny_classifier):
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_classifier).eval()
    text = "the cat sat on the mat " * 40
    with torch.no_grad():
        cut = bert_tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        scores = theirs(**cut).logits[0].softmax(-1)
    assert cut["input_ids"].shape == (1, 64)
    (answer,) = classifier.predict([text])
    assert answer["score"] == pytest.approx(scores.max().item(), abs=1e-5)


# --- without a network ---


def test_load_predict_and_save_without_a_network(tiny_classifier, tmp_path, monkeypatch, one_device):
    """No connection is even tried."""
    tried = []

    def connect(self, address):
        tried.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **more: connect(None, args))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: connect(None, args))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    directory = tmp_path / "copy"
    shutil.copytree(tiny_classifier, directory)
    model = jaxft.load(str(directory))
    answers = model.predict(TEXTS)
    model.save(tmp_path / "saved")
    model.save(directory)  # in the place of the files that were read
    for place in (tmp_path / "saved", directory):
        assert jaxft.load(str(place)).predict(TEXTS) == answers
        assert {file.name for file in place.iterdir()} == {file.name for file in tiny_classifier.iterdir()}
    assert model.predict(TEXTS) == answers
    assert tried == []
