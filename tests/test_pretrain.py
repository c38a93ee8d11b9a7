"""Pre-training: what is hidden, replaced and asked, by independent rules; losses beside PyTorch's."""

import json
import math
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
import small_models
import torch
import transformers
from conftest import DOCUMENTS, byte_bpe, rows_of, sentinel_tokenizer, wordpiece
from hypothesis import given, settings
from hypothesis import strategies as st
from short_steps import check_short_step

import jaxft
from jaxft.cli import command
from jaxft.config import Config, Eval, Mesh
from jaxft.data import Data, Pack, Pad
from jaxft.data.encoded import encode_all
from jaxft.optim.adamw import AdamW
from jaxft.optim.schedule import Constant
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.denoise import Denoise, spans_of
from jaxft.tasks.mlm import MaskedLM
from jaxft.tasks.pretrain import NextSentence, SentenceOrder, pieces
from jaxft.tasks.replaced_tokens import ReplacedTokens
from jaxft.tasks.sentences import SINGLE, encode_sentences, sentences_of
from jaxft.tasks.span_corruption import SpanCorruption, random_sizes
from jaxft.training.compiled import compiled_steps
from jaxft.training.fit import fit
from jaxft.training.run import train_batches
from jaxft.training.setup import build


def test_sentences():
    found = [
        [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
        for text, starts in sentences_of([{"t": text} for text in DOCUMENTS], "t")
    ]
    assert [len(some) for some in found] == [4, 3, 3, 1]
    assert found[2] == ['He said "a dull story." ', "A great story (with good actors.) ", "The end"]
    listed = sentences_of([{"t": ["One.", " ", None, "Two. Three."]}, {"t": []}], "t")
    assert listed == [("One. Two. Three.", [0, 5]), ("", [0])]
    assert sentences_of([{"t": "One. \n"}, {"t": " "}], "t") == [("One. \n", [0]), (" ", [0])]
    with pytest.raises(UserError, match="'t' holds 'x', expected a list of sentences as in other rows"):
        sentences_of([{"t": ["One."]}, {"t": "x"}], "t")


SCRIPTS = {
    "Chinese": [
        "\u4eca\u5929\u5f88\u597d\u3002",
        "\u6211\u4eec\u53bb\u3002",
        "\u4f60\u6765\u5417\uff1f\uff01",
        "\u597d\u7684\uff01",
    ],
    "a quotation": ["\u4ed6\u8bf4\uff1a\u300c\u597d\u3002\u300d", "\u8d70\u4e86\u3002"],
    "Japanese": ["\u672c\u3067\u3059\uff0e", "\u5024\u306f\uff13\uff0e\uff11\uff14\u3067\u3059\uff61", "\u306f\u3044"],
    "Hindi": ["\u0935\u0939 \u0906\u092f\u093e\u0964 ", "\u0935\u0939 \u0917\u092f\u093e\u0965"],
    "Arabic": ["\u0647\u0644 \u062a\u0623\u062a\u064a\u061f ", "\u0646\u0639\u0645. ", "\u0644\u0627"],
    "Urdu": ["\u0648\u06c1 \u0622\u06cc\u0627\u06d4 ", "\u06c1\u0627\u06ba\u06d4"],
    "Armenian": ["\u0535\u057d \u0565\u0574\u0589 ", "\u0534\u0578\u0582 \u0565\u057d\u0589"],
    "Amharic": ["\u1230\u120b\u121d\u1362 ", "\u1290\u12cd\u1362"],
    "Thai": ["\u0e22\u0e34\u0e19\u0e14\u0e35 ", "\u0e04\u0e23\u0e31\u0e1a"],
    "abbreviations": ["The U.S. ", "dollar rose 3.5 points, i.e. ", "a lot! ", "No.1 is e.g.this"],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_sentences_of_other_scripts(script):
    wanted = SCRIPTS[script]
    [(text, starts)] = sentences_of([{"t": "".join(wanted)}], "t")
    found = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    assert found == wanted


def test_texts_of_a_single_sentence_are_counted(bert_tokenizer):
    setting = EncodingContext(bert_tokenizer, 32)
    rows = rows_of([{"text": text} for text in DOCUMENTS])
    for task in (NextSentence(), SentenceOrder()):
        notes = encode_all(rows, partial(task.encode, setting=setting)).report.notes
        assert notes == {"texts of a single sentence": 1}
    lines = rows_of([{"text": DOCUMENTS[1]}])  # lines are sentences: a document of a .txt file
    assert encode_all(lines, partial(NextSentence().encode, setting=setting)).report.notes == {SINGLE: 0}


@pytest.mark.parametrize("tokenizer", [wordpiece(), byte_bpe()], ids=["wordpiece", "byte-level"])
def test_tokens_of_sentences(tokenizer):
    """Each begins with the token that reaches beyond its first character, and all of them together are the text's."""
    setting = EncodingContext(tokenizer, 64)
    rows = [{"t": text} for text in DOCUMENTS]
    for (tokens, words, starts), text in zip(encode_sentences(rows, "t", setting), DOCUMENTS, strict=True):
        assert tokens.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(words) == len(tokens) and np.all(np.diff(words[words >= 0]) >= 0)
        [(_, begins)] = sentences_of([{"t": text}], "t")
        parts = [tokenizer.decode(part).strip().replace(" ", "") for part in np.split(tokens, starts[1:])]
        cut = [text[a:b] for a, b in zip(begins, [*begins[1:], len(text)], strict=True)]
        wanted = [
            tokenizer.decode(tokenizer(one, add_special_tokens=False)["input_ids"]).replace(" ", "") for one in cut
        ]
        assert [part.strip() for part in parts] == [one.strip() for one in wanted]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 60), st.lists(st.integers(1, 59), max_size=8), st.integers(2, 17))
def test_pieces_hold_everything_in_order(count, starts, most):
    starts = np.array(sorted({0, *[start for start in starts if start < count]}))
    found = list(pieces(count, starts, most))
    assert all(2 <= stop - begin <= most for begin, stop in found)
    assert [begin for begin, _ in found] == [0, *[stop for _, stop in found]][: len(found)]
    assert count - (found[-1][1] if found else 0) < 2
    for begin, stop in found:  # ends at a sentence's end, if there is one near enough
        ends = [end for end in (*starts.tolist(), count) if begin + 2 <= end <= begin + most]
        assert stop == (max(ends) if ends else min(begin + most, count))


@pytest.fixture(scope="module")
def setting(bert_tokenizer):
    return EncodingContext(bert_tokenizer, 24)


def examples_of(task, setting, documents=DOCUMENTS):
    return encode_all(rows_of([{"text": text} for text in documents]), lambda rows: task.encode(rows, setting))


def halves(tokens, tokenizer):
    """What stands between the special tokens of a pair, and where the second half begins."""
    ends = np.flatnonzero(tokens == tokenizer.sep_token_id)
    assert tokens[0] == tokenizer.cls_token_id and len(ends) == 2 and ends[1] == len(tokens) - 1
    return tokens[1 : ends[0]].tolist(), tokens[ends[0] + 1 : -1].tolist(), ends[0] + 1


@pytest.mark.parametrize("task", [NextSentence, SentenceOrder])
def test_halves(task, setting, bert_tokenizer):
    """Both classes occur; halves are cut between sentences, and a wrong second half is of another text."""
    task = task(masked=MaskedLM(rate=0.01))
    encoded = examples_of(task, setting)
    assert encoded.lengths.max() <= 24 and len(encoded) > 4
    texts = encode_sentences([{"text": text} for text in DOCUMENTS], "text", setting)
    labels = []
    for number in range(len(encoded)):
        example = encoded[number]
        document = texts[encoded.source[number]][0].tolist()
        for seed in range(12):
            drawn = task.random_transform(example, np.random.default_rng(seed), setting)
            tokens = drawn["tokens"].copy()
            tokens[drawn["at"]] = drawn["targets"]  # what was hidden
            first, second, begins = halves(tokens, bert_tokenizer)
            label = int(drawn["pair_targets"][0])
            labels.append(label)
            assert drawn["types"].tolist() == [0] * begins + [1] * (len(tokens) - begins)
            assert drawn["pair_at"].tolist() == [0] and drawn["pair_weights"].tolist() == [1.0]
            assert len(tokens) <= len(example["tokens"])
            whole = example["text"].tolist()
            cut = (
                len(first)
                if label == 0 or isinstance(task, NextSentence) and not isinstance(task, SentenceOrder)
                else len(second)
            )
            assert cut in example["cuts"]
            if label == 0:
                assert first + second == whole
            elif isinstance(task, SentenceOrder):
                assert second + first == whole
            else:
                assert first == whole[:cut] and len(second) <= len(whole) - cut and second
                elsewhere = [text.tolist() for i, (text, _, _) in enumerate(texts) if i != encoded.source[number]]
                assert any(contains(text, second) for text in elsewhere)
                assert not contains(document, second) or len(second) < 3
    assert 0.35 < np.mean(labels) < 0.65


def contains(text: list, part: list) -> bool:
    return any(text[i : i + len(part)] == part for i in range(len(text) - len(part) + 1))


def test_a_single_text_has_no_wrong_halves(setting):
    encoded = examples_of(NextSentence(), setting, [DOCUMENTS[0], "x"])
    drawn = [NextSentence().random_transform(encoded[0], np.random.default_rng(seed), setting) for seed in range(20)]
    assert {int(one["pair_targets"][0]) for one in drawn} == {0}
    assert encoded.report.dropped == {"fewer than two tokens": 1}
    with pytest.raises(UserError, match="cannot be cut into chunks"):
        NextSentence().prepare([], replace(setting, max_len=None))
    assert SentenceOrder(masked=MaskedLM(rate=2.0)).problems() == [
        "masked: rate is 2.0, expected more than 0 and less than 1"
    ]
    with pytest.raises(UserError, match="is too small for two halves"):
        NextSentence().prepare([], replace(setting, max_len=4))


def test_replaced_tokens(setting, bert_tokenizer):
    task = ReplacedTokens(rate=0.3)
    encoded = examples_of(task, setting)
    share = []
    for number in range(len(encoded)):
        example = encoded[number]
        special = np.isin(example["tokens"], bert_tokenizer.all_special_ids)
        for seed in range(30):
            drawn = task.random_transform(example, np.random.default_rng(seed), setting)
            changed = drawn["tokens"] != example["tokens"]
            assert np.array_equal(drawn["targets"], changed) and not changed[special].any()
            assert np.isin(drawn["tokens"][changed], encoded.flat["tokens"]).all() and np.all(drawn["weights"] == 1)
            share.append(changed.sum() / (~special).sum())
    assert 0.2 < np.mean(share) < 0.3  # some happen to be what they were


@pytest.fixture(scope="module")
def t5_setting():
    made = sentinel_tokenizer()
    return EncodingContext(made, 40, decoder_start=made.pad_token_id)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000), st.sampled_from([0.15, 0.5]), st.sampled_from([1.0, 3.0]))
def test_span_corruption(t5_setting, length, seed, rate, span):
    """The text is found again from both sides; sizes depend on the length only."""
    task, tokenizer = SpanCorruption(rate=rate, span=span), t5_setting.tokenizer
    text = np.random.default_rng(length).integers(5, 90, length).astype(np.int32)
    hidden = min(max(round(length * rate), 1), length - 1)
    if max(min(round(hidden / span), hidden, length - hidden), 1) > 12:
        with pytest.raises(UserError, match="the tokenizer has no token <extra_id_12>"):
            task.random_transform({"tokens": text}, np.random.default_rng(seed), t5_setting)
        return
    drawn = task.random_transform({"tokens": text}, np.random.default_rng(seed), t5_setting)
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(12)])
    source, target = drawn["tokens"].tolist(), drawn["targets"].tolist()
    assert source[-1] == target[-1] == tokenizer.eos_token_id
    marks = [token for token in source if token in sentinels]
    assert marks == [token for token in target if token in sentinels] == sentinels[: len(marks)]
    spans = {}
    for token in target[:-1]:
        if token in sentinels:
            spans[token] = current = []
        else:
            current.append(token)
    assert all(spans.values()) and sum(map(len, spans.values())) == hidden
    again = [token for one in source[:-1] for token in (spans[one] if one in spans else [one])]
    assert again == text.tolist() and source[0] == text[0]  # text stands in front of the first span
    assert len(source) == task.transformed_length(length) and len(target) == task.max_predictions(length)
    assert drawn["decoder_tokens"].tolist() == [tokenizer.pad_token_id, *target[:-1]]


def test_span_corruption_of_t5s_own_lengths():
    """Raffel et al.: 512 tokens for the encoder and 114 for the decoder."""
    task = SpanCorruption()
    assert (task.transformed_length(568), task.max_predictions(568)) == (512, 114)


def test_parted():
    rng = np.random.default_rng(0)
    found = np.array([random_sizes(7, 3, rng) for _ in range(3000)])
    assert np.all(found.sum(1) == 7) and found.min() == 1
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == math.comb(6, 2) and counts.min() > 130  # of 200 that are expected of each


@pytest.fixture(scope="module")
def bart_setting(bert_tokenizer):
    return EncodingContext(bert_tokenizer, 40, decoder_start=bert_tokenizer.sep_token_id)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3), st.sampled_from([0.1, 0.3, 0.9]), st.booleans())
def test_denoising(bart_setting, seed, document, rate, shuffle):
    """What stays are the text's tokens in order of the shuffled sentences; masks never touch."""
    task, tokenizer = Denoise(rate=rate, shuffle=shuffle), bart_setting.tokenizer
    example = task.encode([{"text": DOCUMENTS[document]}], bart_setting)[0]
    whole = tokenizer(DOCUMENTS[document], truncation=True, max_length=40)["input_ids"]
    drawn = task.random_transform(example, np.random.default_rng(seed), bart_setting)
    assert drawn["targets"].tolist() == whole
    assert drawn["decoder_tokens"].tolist() == [tokenizer.sep_token_id, *whole[:-1]]
    source = drawn["tokens"]
    assert len(source) <= len(whole) and (source[0], source[-1]) == (whole[0], whole[-1])
    inner = source[1:-1]
    masks = np.flatnonzero(inner == tokenizer.mask_token_id)
    assert not np.any(np.diff(masks) == 1)
    kept = [token for token in inner.tolist() if token != tokenizer.mask_token_id]
    count = len(whole) - 2
    assert count - math.ceil(rate * count) <= len(kept)
    if not shuffle:
        rest = iter(whole[1:-1])
        assert all(token in rest for token in kept)  # in their order
    else:
        assert not np.any(np.bincount(kept, minlength=200) > np.bincount(whole[1:-1], minlength=200))


def test_sentences_are_shuffled_as_wholes(bart_setting):
    task = Denoise(rate=0.001)
    example = task.encode([{"text": DOCUMENTS[0]}], bart_setting)[0]
    sentences = [part.tolist() for part in np.split(example["tokens"][1:-1], example["starts"][1:])]
    orders = set()
    for seed in range(60):
        rest = task.random_transform(example, np.random.default_rng(seed), bart_setting)["tokens"][1:-1].tolist()
        if bart_setting.tokenizer.mask_token_id in rest:
            continue
        order = []
        while rest:
            number = next(i for i, one in enumerate(sentences) if i not in order and rest[: len(one)] == one)
            order.append(number)
            rest = rest[len(sentences[number]) :]
        orders.add(tuple(order))
    assert len(sentences) == 4 and len(orders) > 10 and all(sorted(order) == [0, 1, 2, 3] for order in orders)


def test_masks_for_spans_of_nothing():
    """As many as a Poisson distribution has: exp(-3) of all spans."""
    task, text, empty, masks = Denoise(), np.arange(100, 160), 0, 0
    for seed in range(300):
        found = task._infilled(text, 1, np.random.default_rng(seed))
        at = np.flatnonzero(found == 1)
        before = np.where(at > 0, found[at - 1], 99)
        behind = np.where(at + 1 < len(found), found[np.minimum(at + 1, len(found) - 1)], 160)
        empty, masks = empty + np.sum(behind == before + 1), masks + len(at)
    assert empty / masks == pytest.approx(np.exp(-3), rel=0.25)


def test_spans_are_poisson():
    rng = np.random.default_rng(0)
    sizes = np.concatenate([spans_of(2000, 3.0, rng)[:-1] for _ in range(20)])
    assert sizes.mean() == pytest.approx(3, abs=0.06) and sizes.var() == pytest.approx(3, abs=0.15)
    assert spans_of(7, 3.0, rng).sum() == 7 and not len(spans_of(0, 3.0, rng))


def test_what_a_decoders_task_needs(bert_tokenizer):
    for task in (SpanCorruption(), Denoise()):
        with pytest.raises(UserError, match=r"whose config.json has decoder_start_token_id"):
            task.prepare([], EncodingContext(bert_tokenizer, 24))
    with pytest.raises(UserError, match="has no end-of-text token"):
        SpanCorruption().prepare([], EncodingContext(bert_tokenizer, 24, decoder_start=0))
    with pytest.raises(UserError, match="the tokenizer has no token <extra_id_0>"):
        SpanCorruption().prepare([], EncodingContext(byte_bpe(eos="</s>"), 24, decoder_start=0))


def configured(model, task, corpus, **more) -> Config:
    cfg = {"lr": 1e-3, "batch": 4, "steps": 20, "max_len": 40, "dropout": 0.0, "dtype": "float32", "mesh": Mesh(data=1)}
    cfg |= {"schedule": Constant(), "optim": AdamW(decay=0.0), "clip": None, "batching": Pad(buckets=(40,), window=1)}
    return Config(model=str(model), task=task, data=Data(path=corpus), **(cfg | more))


def steps_of(cfg, steps=20):
    """(batch, its metrics) of each step."""
    made = build(cfg)
    batches, plan = train_batches(made), compiled_steps(made, cfg.steps)
    trained, frozen, _ = made.load()
    state, step = plan.initial_state(trained), plan.step()
    with jax.set_mesh(made.mesh):
        for number in range(steps):
            batch = {key: value for key, value in batches[number].items() if key != "index"}
            state, metrics = step(state, frozen, made.put(batch))
            yield batch, jax.device_get(metrics.sums)


def labels_of(batch) -> torch.Tensor:
    """PyTorch's labels (rows, length): the hidden token where one is, else -100."""
    labels = np.full(batch["tokens"].shape, -100)
    row, slot = np.nonzero(batch["weights"])
    labels[row, batch["at"][row, slot]] = batch["targets"][row, slot]
    return torch.tensor(labels)


def curve(model, batches, loss_of) -> list[float]:
    """PyTorch's losses with AdamW at the same constant rate."""
    adamw, losses = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0), []
    for batch in batches:
        adamw.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        adamw.step()
        losses.append(loss.item())
    return losses


def falls(losses) -> bool:
    """Batches of four differ by more than twenty steps teach, hence means of five."""
    return np.mean(losses[-5:]) < np.mean(losses[:5])


def test_twenty_steps_of_words_and_sentences(pretraining_bert, corpus, one_device):
    """Loss of masked words plus that of pairs, each a mean: as BertForPreTraining has it (1e-3 asked)."""

    def loss_of(model, batch):
        ids, types = (torch.tensor(batch[key]).long() for key in ("tokens", "types"))
        mask, pairs = torch.tensor(batch["segments"] > 0).long(), torch.tensor(batch["pair_targets"][:, 0]).long()
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return model(**given, labels=labels_of(batch), next_sentence_label=pairs).loss

    ours = list(steps_of(configured(pretraining_bert, NextSentence(), corpus)))
    model = transformers.BertForPreTraining.from_pretrained(pretraining_bert).eval()
    losses = curve(model, [batch for batch, _ in ours], loss_of)
    found = [float(sums["loss"].value()) for _, sums in ours]
    assert found == pytest.approx(losses, abs=1e-4) and falls(losses)
    parts = ours[0][1]
    assert found[0] == pytest.approx(parts["word_loss"].value() + parts["pair_loss"].value(), rel=1e-6)


@pytest.mark.parametrize(
    "more", [{"batching": Pack(length=100)}, {"micro_batches": 2}], ids=["packed", "micro-batches"]
)
def test_the_loss_of_both_is_the_same_however_a_batch_is_laid_out(pretraining_bert, corpus, one_device, more):
    plain, other = (
        [sums["loss"].value() for _, sums in steps_of(configured(pretraining_bert, NextSentence(), corpus, **cfg), 3)]
        for cfg in ({}, more)
    )
    assert other == pytest.approx(plain, rel=2e-6)


def test_twenty_steps_of_replaced_tokens(detector, corpus, one_device):
    def loss_of(model, batch):
        mask = torch.tensor(batch["segments"] > 0).long()
        labels = torch.tensor(batch["targets"])
        return model(input_ids=torch.tensor(batch["tokens"]).long(), attention_mask=mask, labels=labels).loss

    ours = list(steps_of(configured(detector, ReplacedTokens(), corpus)))
    model = transformers.ElectraForPreTraining.from_pretrained(detector).eval()
    losses = curve(model, [batch for batch, _ in ours], loss_of)
    assert [float(sums["loss"].value()) for _, sums in ours] == pytest.approx(losses, abs=1e-4)
    assert falls(losses)


@pytest.mark.parametrize("task", [SpanCorruption(), Denoise()], ids=["corrupted", "denoised"])
def test_twenty_steps_of_encoder_and_decoder(task, tiny_t5, tiny_bart, corpus, one_device):
    def loss_of(model, batch):
        labels = torch.tensor(np.where(batch["weights"] > 0, batch["targets"], -100)).long()
        mask = torch.tensor(batch["segments"] > 0).long()
        return model(input_ids=torch.tensor(batch["tokens"]).long(), attention_mask=mask, labels=labels).loss

    directory = tiny_t5 if isinstance(task, SpanCorruption) else tiny_bart
    ours = list(steps_of(configured(directory, task, corpus)))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    losses = curve(model, [batch for batch, _ in ours], loss_of)
    assert [float(sums["loss"].value()) for _, sums in ours] == pytest.approx(losses, abs=1e-4)
    assert falls(losses)
    in_rows = steps_of(configured(directory, task, corpus, batching=Pack(length=90)), 2)
    packed = [sums["loss"].value() for _, sums in in_rows]
    assert packed == pytest.approx([sums["loss"].value() for _, sums in ours[:2]], rel=1e-5)


RUNS = {
    "sentence order": (SentenceOrder(), "pretraining_bert", Pad(), {"pair_accuracy", "perplexity"}),
    "replaced": (ReplacedTokens(), "detector", Pack(length=64), {"precision", "recall", "accuracy"}),
    "denoised": (Denoise(), "tiny_bart", Pack(length=64), {"perplexity", "accuracy"}),
}


@pytest.mark.parametrize("run", RUNS)
def test_runs(run, request, corpus, tmp_path, one_device):
    """Two steps and an evaluation; what is left loads in transformers."""
    task, model, rows, metrics = RUNS[run]
    directory = request.getfixturevalue(model)
    cfg = configured(
        directory,
        task,
        corpus,
        steps=2,
        batching=rows,
        evals={"held": Eval(data=Data(path=corpus, limit=9))},
    )
    check(fit(cfg, str(tmp_path)).metrics["held"], metrics, tmp_path / "model")


def check(results: dict, metrics: set, model) -> None:
    """All there, and numbers; and the model loads in transformers."""
    assert results.keys() >= metrics and all(math.isfinite(results[name]) for name in metrics)
    if "pair_loss" in results:
        assert results["loss"] == pytest.approx(results["word_loss"] + results["pair_loss"], rel=1e-9)
    config = transformers.AutoConfig.from_pretrained(model)
    getattr(transformers, config.architectures[0]).from_pretrained(model)


RECIPES = {
    "bert": ("pretraining_bert", {"pair_accuracy", "perplexity", "word_loss"}),
    "electra": ("small_electra", {"accuracy", "recall"}),
    "gpt": ("tiny_gpt2", {"perplexity", "bits_per_byte"}),
    "t5": ("tiny_t5", {"perplexity", "accuracy"}),
}


@pytest.fixture
def small_electra(tmp_path):
    small_models.write(tmp_path / "small")
    t5 = transformers.AutoTokenizer.from_pretrained(tmp_path / "small/t5")
    assert t5.convert_tokens_to_ids("<extra_id_23>") == 6023 and t5.eos_token == "[SEP]"
    known = jaxft.load(str(tmp_path / "small/electra"), head="pretraining")
    assert len(known.report.loaded) == 69 and all(name.startswith("head.") for name in known.report.new)
    return tmp_path / "small/electra"


@pytest.mark.parametrize("config", RECIPES)
def test_recipes(config, request, corpus, tmp_path, one_device):
    """Each trains two steps on a file of documents."""
    model, metrics = RECIPES[config]
    flags = {"model": request.getfixturevalue(model), "steps": 2, "batch": 4, "max_len": 24, "mesh.data": 1}
    flags |= {"batching.length": 48 if config in ("bert", "electra") else 24}
    line = [
        f"--config=configs/pretrain_{config}.py:{corpus}",
        *(f"--config.{name}={value}" for name, value in flags.items()),
    ]
    cfg = replace(command.parse(line, command.CONFIG).config, evals={"held": Eval(data=Data(path=corpus, limit=9))})
    check(fit(cfg, str(tmp_path)).metrics["held"], metrics, tmp_path / "model")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["split"] == "train"][-1]
    assert last["step"] == 2 and math.isfinite(last["loss"]) and last["learning_rate"] > 0


@pytest.mark.parametrize("run", RUNS)
def test_short_steps(run, request, corpus, one_device):
    """Of two documents in eight rows; tests/test_short_steps.py."""
    task, model, _, _ = RUNS[run]
    check_short_step(request.getfixturevalue(model), task, corpus, "pretrained", epochs=2 / 40, max_len=40)
