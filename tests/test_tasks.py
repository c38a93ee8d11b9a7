"""Tasks: losses against PyTorch's, labels and their order, what a text becomes, statistics of masking."""

import json
import shutil
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
import torch
from conftest import TEXTS, byte_bpe, rows_of, wordpiece
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from jaxft.config import Config, Mesh
from jaxft.config.component import config
from jaxft.config.ranges import problems_of
from jaxft.data import Chunk, Pack, Pad
from jaxft.data.encoded import encode_all
from jaxft.data.pipeline import EvalBatches
from jaxft.metrics import Mean, objective
from jaxft.models.checkpoint.save import exported_config
from jaxft.models.layers.lm_loss import LazyLogits
from jaxft.models.model import Outputs
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.classify import Classify, MultiLabel, Regress
from jaxft.tasks.lm import CausalLM, sizes_of
from jaxft.tasks.mlm import MaskedLM
from jaxft.tasks.tokens import perplexity, token_sums
from jaxft.training.setup import build

NAMES = ("neg", "neu", "pos")


def close(ours, theirs, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=tolerance, atol=tolerance)


def of_vocabulary(logits):
    """As a language model's head gives them: the product with a table, here with the identity."""
    return LazyLogits(jnp.asarray(logits), jnp.eye(logits.shape[-1]), None)


def scored(task, logits, targets, weights=None, head=jnp.asarray):
    """Value of the loss and its gradient with respect to the logits, mean over what counts."""
    weights = np.ones(targets.shape[:2], np.float32) if weights is None else weights
    batch = {"targets": jnp.array(targets), "weights": jnp.array(weights), "bytes": jnp.ones(weights.shape)}

    def mean(logits):
        pair = objective(task.loss(Outputs(None, head(logits)), batch))
        return pair.total / pair.count

    return jax.value_and_grad(mean)(jnp.array(logits))


def by_torch(loss, logits):
    """The same of a PyTorch loss."""
    logits = torch.tensor(logits, requires_grad=True)
    value = loss(logits)
    value.backward()
    return value.detach(), logits.grad


@pytest.fixture
def logits():
    return 2 * np.random.default_rng(1).standard_normal((7, 1, 3)).astype(np.float32)


@pytest.fixture
def targets():
    return np.array([[0], [2], [1], [2], [2], [0], [1]], np.int32)


@pytest.fixture
def setting(bert_tokenizer):
    return EncodingContext(bert_tokenizer, 32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("weights", [None, (0.2, 3.0, 1.5)])
def test_cross_entropy(logits, targets, smoothing, weights):
    task = Classify(labels=NAMES, label_smoothing=smoothing, class_weights=weights)
    given = None if weights is None else torch.tensor(weights)

    def theirs(logits):
        classes = torch.tensor(targets[:, 0], dtype=torch.long)
        return functional.cross_entropy(logits[:, 0], classes, weight=given, label_smoothing=smoothing)

    for ours, wanted in zip(scored(task, logits, targets), by_torch(theirs, logits), strict=True):
        close(ours, wanted)
    # Under the plain name is what other runs have too, whatever they minimise.
    sums = task.loss(Outputs(None, jnp.array(logits)), {"targets": targets, "weights": np.ones(targets.shape)})
    plain = log_loss(targets[:, 0], scipy.special.softmax(logits[:, 0].astype(float), -1), labels=[0, 1, 2])
    assert sums["loss"].value() == pytest.approx(plain, rel=1e-6)
    assert ("weighted_loss" in sums) == (weights is not None or smoothing > 0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal(logits, targets, gamma):
    def theirs(logits):
        sure = torch.softmax(logits[:, 0], -1)[range(7), targets[:, 0]]
        return torch.mean(-((1 - sure) ** gamma) * torch.log(sure))

    task = Classify(labels=NAMES, focal=gamma)
    for ours, wanted in zip(scored(task, logits, targets), by_torch(theirs, logits), strict=True):
        close(ours, wanted)
    # One class, quite certain: the power's derivative at 0 must not make a NaN.
    value, gradient = scored(task, np.array([[[60.0, 0.0, -60.0]]], np.float32), np.array([[0]], np.int32))
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_several_labels(logits):
    targets = np.random.default_rng(2).integers(0, 2, (7, 1, 3)).astype(np.float32)
    theirs = by_torch(lambda x: functional.binary_cross_entropy_with_logits(x, torch.tensor(targets)), logits)
    for ours, wanted in zip(scored(MultiLabel(labels=NAMES), logits, targets), theirs, strict=True):
        close(ours, wanted)


def test_regression_loss(logits):
    targets = np.array([[0.25], [3.7], [-1], [0], [2], [1e3], [5]], np.float32)
    theirs = by_torch(lambda x: functional.mse_loss(x[:, 0, 0], torch.tensor(targets[:, 0])), logits[..., :1])
    for ours, wanted in zip(scored(Regress(), logits[..., :1], targets), theirs, strict=True):
        close(ours, wanted, 1e-5)


def test_language_model_losses_leave_out_padding():
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((2, 5, 11)).astype(np.float32)
    targets = rng.integers(0, 11, (2, 5)).astype(np.int32)
    weights = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 0, 1]], np.float32)
    labels = torch.tensor(np.where(weights > 0, targets, -100), dtype=torch.long)
    theirs = by_torch(lambda x: functional.cross_entropy(x.flatten(0, 1), labels.flatten()), logits)
    for task in (CausalLM(), MaskedLM()):
        for ours, wanted in zip(scored(task, logits, targets, weights, of_vocabulary), theirs, strict=True):
            close(ours, wanted)
        batch = {"targets": targets, "weights": jnp.array(weights), "bytes": np.full((2, 5), 2)}
        pairs = task.loss(Outputs(None, of_vocabulary(logits)), batch)
        right = (logits.argmax(-1) == targets)[weights > 0]
        assert (float(pairs["accuracy"].total), float(pairs["accuracy"].count)) == (right.sum(), 5)
        assert task.compute_metrics(pairs, {})["perplexity"] == pytest.approx(float(theirs[0].exp()), rel=1e-6)


def test_class_weights(setting):
    rows = rows_of([{"text": "a", "label": name} for name in ("pos", "neg", "neg", "neu", "pos", "pos", "pos")])
    task = Classify(class_weights="balanced").prepare(rows, setting)
    values = [row["label"] for row in rows]
    close(task.class_weights, compute_class_weight("balanced", classes=np.array(NAMES), y=values))
    with pytest.raises(UserError, match="class_weights has 2 numbers for 3 classes: neg, neu, pos"):
        Classify(class_weights=(1.0, 2.0)).prepare(rows, setting)


def test_labels_are_sorted_once_and_hold_for_every_split(setting):
    train = rows_of([{"text": "a", "label": name} for name in ("pos", "neg", "neu")])
    for order in (train, rows_of(train[::-1])):
        task = Classify().prepare(order, setting)
        assert task.labels == NAMES
    examples = task.encode(rows_of([{"text": "a", "label": name} for name in ("neu", "pos")])[:], setting)
    assert [example["targets"].tolist() for example in examples] == [[1], [2]]


def test_labels_of_numbers_are_in_the_order_of_numbers(setting):
    rows = rows_of([{"text": "a", "label": label} for label in ("10", "9", "-2", "01")])
    assert Classify().prepare(rows, setting).labels == ("-2", "01", "9", "10")
    rows = rows_of([{"text": "a", "label": label} for label in (2, 0, 1)])
    assert Classify().prepare(rows, setting).labels == ("0", "1", "2")


def test_strange_class_names_are_names(setting):
    names = ("nan", "NA", "inf", "1_000", "²", "None")
    assert Classify().prepare(rows_of([{"text": "a", "label": name} for name in names]), setting).labels == tuple(
        sorted(names)
    )


def test_numbered_classes_of_a_data_set_keep_their_order(setting):
    classes = {"label": ["pos", "neg", "neu"]}
    rows = rows_of([{"text": "a", "label": number} for number in (2, 0, 1, -1)], classes)
    task = Classify(class_weights="balanced").prepare(rows, setting)
    assert task.labels == ("pos", "neg", "neu") and task.class_weights == (1.0, 1.0, 1.0)
    encoded = encode_all(rows.named(), lambda rows: task.encode(rows, setting))
    assert encoded.flat["targets"].tolist() == [2, 0, 1] and encoded.report.dropped == {"no label": 1}
    # An evaluation set that numbers the same classes otherwise.
    rows = rows_of([{"text": "a", "label": number} for number in (0, 1)], {"label": ["neg", "pos"]})
    examples = task.encode(rows.named()[:], setting)
    assert [example["targets"].tolist() for example in examples] == [[1], [0]]


def test_labels_given_by_the_user_come_first(setting):
    rows = rows_of([{"text": "a", "label": name} for name in ("neg", "pos")])
    task = Classify(labels=("pos", "other", "neg")).prepare(rows, setting)
    assert [e["targets"].tolist() for e in task.encode(rows[:], setting)] == [[2], [0]]


def test_unknown_label(setting):
    rows = rows_of([{"text": "a", "label": name} for name in ("pos", "neg", "postive", None)])
    task = Classify(labels=("neg", "positive", "pos"))
    with pytest.raises(UserError) as error:
        encode_all(rows, lambda rows: task.encode(rows, setting), name=rows.name)
    message = str(error.value)
    assert "row 3" in message and "'postive'" in message and "neg, positive, pos" in message
    assert "Did you mean 'positive'?" in message
    with pytest.raises(UserError, match="label 'b' is not among"):
        MultiLabel(labels=("a",)).encode([{"text": "x", "labels": "a|b"}], setting)


@config
class Memory:
    """A source in memory."""

    labels: tuple
    classes: dict[str, list[str]] | None = None

    def open(self):
        return rows_of([{"text": "a film", "label": label} for label in self.labels], self.classes)


def source(*labels, classes=None):
    return Memory(labels=labels, classes=classes)


def configured(directory, task, data, **more):
    values = {"lr": 1e-3, "batch": 2, "steps": 1, "mesh": Mesh(data=1), "max_len": 32, **more}
    return Config(model=str(directory), task=task, data=data, **values)


def test_a_checkpoint_keeps_the_numbers_of_its_classes(tiny_classifier, one_device, tmp_path):
    labels = ("zebra", "ape", "bee")
    directory = shutil.copytree(tiny_classifier, tmp_path / "model")
    values = json.loads((directory / "config.json").read_text())
    values |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    (directory / "config.json").write_text(json.dumps(values))
    for data, targets in ((source("bee", "zebra", "ape"), [2, 0, 1]), (source("zebra", "ape", "bee"), [0, 1, 2])):
        built = build(configured(directory, Classify(), data))
        assert built.task.labels == labels and built.encode("train").flat["targets"].tolist() == targets
    made = exported_config(built.pretrained, built.arch, "auto", list(built.task.labels), built.task.problem_type)
    assert made["id2label"] == {"0": "zebra", "1": "ape", "2": "bee"}
    assert made["label2id"] == {"zebra": 0, "ape": 1, "bee": 2}
    assert made["problem_type"] == "single_label_classification"


def test_a_head_of_other_classes_is_refused(tiny_classifier, one_device):
    with pytest.raises(UserError, match="knows the classes neg, neu, pos, the data has bad, good.*init='backbone'"):
        build(configured(tiny_classifier, Classify(), source("bad", "good")))
    built = build(configured(tiny_classifier, Classify(), source("bad", "good"), init="backbone"))
    assert built.task.labels == ("bad", "good")


def test_numbered_classes_reach_the_run_as_names(tiny_classifier, one_device):
    built = build(
        configured(tiny_classifier, Classify(), source(0, 2, 1, -1, classes={"label": ["pos", "neg", "neu"]}))
    )
    assert built.task.labels == NAMES  # the checkpoint's order
    names = [built.task.labels[target] for target in built.encode("train").flat["targets"]]
    assert names == ["pos", "neu", "neg"]


def test_numbers_are_regression_only_when_asked(setting, tiny_bert, one_device):
    floats = [0.25, 3.75, -2.0]
    task = Regress().prepare(rows_of([{"text": "a", "label": value} for value in floats]), setting)
    examples = task.encode([{"text": "a", "label": value} for value in floats], setting)
    assert [e["targets"].dtype for e in examples] == [np.float32] * 3
    close([e["targets"][0] for e in examples], floats, 0)
    as_text = task.encode([{"text": "a", "label": value} for value in ("0.25", "3.75", "-2")], setting)
    close([e["targets"][0] for e in as_text], floats, 0)
    mixed = task.encode([{"text": "a", "label": value} for value in (1, "2", 2.5)], setting)
    close([e["targets"][0] for e in mixed], [1, 2, 2.5], 0)
    for decimals in ([0.0, 2.5, 5.0], ["0.0", "2.5", "5.0"], ["1", "2.5"]):
        with pytest.raises(UserError, match=r"holds decimals such as \d\.\d: for regression use the task Regress"):
            Classify().prepare(rows_of([{"text": "a", "label": value} for value in decimals]), setting)
    for whole in ([0, 1, 2], ["0", "1", "2"]):
        task = Classify().prepare(rows_of([{"text": "a", "label": value} for value in whole]), setting)
        assert task.labels == ("0", "1", "2")
    built = build(configured(tiny_bert, Regress(), source(0.0, 2.5)))
    made = exported_config(built.pretrained, built.arch, "auto", list(built.task.labels), built.task.problem_type)
    assert made["problem_type"] == "regression" and len(made["id2label"]) == 1


@pytest.mark.parametrize("value", ["good", "nan", float("inf"), "1_0"])
def test_no_number(setting, value):
    with pytest.raises(UserError, match="expected a number"):
        Regress().encode([{"text": "a", "label": value}], setting)
    # A row without a number at all is left out, and counted.
    for nothing in (None, "", " \t", float("nan")):
        assert Regress().encode([{"text": "a", "label": nothing}], setting) == ["no label"]


def test_several_labels_from_lists_or_text(setting):
    rows = [{"text": "x", "labels": value} for value in (["b", "a"], "c| a", [], "[]", "b|", "", None, [None])]
    task = MultiLabel().prepare(rows_of(rows), setting)
    assert task.labels == ("a", "b", "c") and task.multi_hot is False
    *examples, last, before, none = task.encode(rows, setting)
    assert [last, before, none] == ["no label"] * 3
    targets = [e["targets"].tolist() for e in examples]
    assert targets == [[[1, 1, 0]], [[1, 0, 1]], [[0, 0, 0]], [[0, 0, 0]], [[0, 1, 0]]]
    assert task.encode([{"text": "x", "labels": [None, "c"]}], setting)[0]["targets"].tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("reads", ["first", "last"])
def test_pairs_and_the_token_that_is_read(bert_tokenizer, reads):
    setting = EncodingContext(bert_tokenizer, 9, reads)
    rows = [
        {"a": "the cat", "b": "the dog sat on the mat and the log", "label": "x"},
        {"a": "a", "b": None, "label": "x"},
    ]
    long, short = Classify(text="a", pair="b", labels=("x",)).encode(rows, setting)
    wanted = bert_tokenizer("the cat", "the dog sat on the mat and the log", truncation="longest_first", max_length=9)
    assert long["tokens"].tolist() == wanted["input_ids"] and long["types"].tolist() == wanted["token_type_ids"]
    assert long["truncated"] and not short["truncated"] and len(long["tokens"]) == 9
    assert long["at"].tolist() == [0 if reads == "first" else 8]
    assert short["at"].tolist() == [0 if reads == "first" else len(short["tokens"]) - 1]


def test_settings_out_of_range():
    assert problems_of(Classify(label_smoothing=1.0, focal=-1.0, class_weights="even")) == [
        "label_smoothing is 1.0, expected 0 or more and less than 1",
        "focal is -1.0, expected 0 or more, or None",
        "class_weights is 'even', expected numbers or 'balanced'",
    ]
    assert len(problems_of(MaskedLM(rate=1.0, unit="letter"))) == 2 and not problems_of(MaskedLM())
    with pytest.raises(UserError, match="holds no labels"):
        Classify().prepare(rows_of([{"text": "a", "label": None}]), EncodingContext(None, 8))


# --- masking ---

DRAWS = 2000
TEXT = "unhappy sailors returned to the harbour [SEP] with a great [MASK] story"


def masked(task, setting, text=TEXT):
    return task.encode([{"text": text}], setting)[0]


@pytest.mark.parametrize("unit", ["token", "word"])
def test_masking_statistics(setting, unit):
    tokenizer = setting.tokenizer
    task, rng = MaskedLM(unit=unit), np.random.default_rng(4)
    example = masked(task, setting)
    tokens = example["tokens"]
    special = np.isin(tokens, tokenizer.all_special_ids)
    assert special.sum() == 4  # two of the layout, two of the text
    hidden, fates, new = np.zeros(len(tokens)), Counter(), set()
    for _ in range(DRAWS):
        drawn = task.random_transform(example, rng, setting)
        at, after = drawn["at"], drawn["tokens"]
        assert np.all(np.diff(at) > 0) and len(at) <= task.max_predictions(len(tokens))
        assert np.array_equal(drawn["targets"], tokens[at]) and np.all(drawn["weights"] == 1)
        assert np.array_equal(np.delete(after, at), np.delete(tokens, at))
        hidden[at] += 1
        for before, now in zip(tokens[at].tolist(), after[at].tolist(), strict=True):
            fates["mask" if now == tokenizer.mask_token_id else "keep" if now == before else "swap"] += 1
            new |= {now} - {before, tokenizer.mask_token_id}
    assert hidden[special].sum() == 0
    assert not new & set(tokenizer.all_special_ids) and len(new) > 100
    count = sum(fates.values())
    share = hidden.sum() / DRAWS / (~special).sum()
    assert share == pytest.approx(0.15, abs=0.01) if unit == "token" else 0.08 < share < 0.16
    assert fates["mask"] / count == pytest.approx(0.8, abs=0.02)
    assert fates["swap"] / count == pytest.approx(0.1, abs=0.02)
    assert fates["keep"] / count == pytest.approx(0.1, abs=0.02)
    if unit == "token":  # every ordinary token is as likely as any other
        assert hidden[~special].min() > 0.1 * DRAWS and hidden[~special].max() < 0.2 * DRAWS


def test_words_are_hidden_whole(setting):
    task, rng = MaskedLM(unit="word", rate=0.3), np.random.default_rng(5)
    example = masked(task, setting)
    words = setting.tokenizer(TEXT).encodings[0].word_ids
    words = np.array([-1 if word is None else word for word in words])
    pieces = Counter(words.tolist())
    assert max(count for word, count in pieces.items() if word >= 0) >= 3
    seen = Counter()
    for _ in range(500):
        chosen = Counter(words[task.random_transform(example, rng, setting)["at"]].tolist())
        assert all(count == pieces[word] for word, count in chosen.items())
        seen.update(pieces[word] for word in chosen)
    assert len(seen) >= 3  # short and long words


def test_masks_are_drawn_anew_and_can_be_repeated(setting):
    task = MaskedLM()
    example = masked(task, setting)
    before = example["tokens"].copy()

    def random_transform(seed):
        return task.random_transform(example, np.random.default_rng(seed), setting)

    assert all(np.array_equal(random_transform(1)[key], random_transform(1)[key]) for key in random_transform(1))
    assert len({tuple(random_transform(seed)["at"]) for seed in range(20)}) > 10
    assert np.array_equal(example["tokens"], before)


def test_text_without_ordinary_token(setting):
    assert task_answers(MaskedLM(), ["", "[SEP]", "the"], setting) == ["no ordinary token"] * 2 + [None]


def task_answers(task, texts, setting):
    answers = task.encode([{"text": text} for text in texts], setting)
    return [answer if isinstance(answer, str) else None for answer in answers]


# --- language modelling ---


def tokens_of(tokenizer, *texts, longest=None):
    task, setting = CausalLM(), EncodingContext(tokenizer, longest)
    return [
        e if isinstance(e, str) else e["tokens"].tolist() for e in task.encode([{"text": t} for t in texts], setting)
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_text_ends_once(request, family):
    tokenizer = request.getfixturevalue(f"{family}_tokenizer")
    eos, longest = tokenizer.eos_token_id, 16
    texts = ["ok", "ok" + tokenizer.eos_token, "the cat sat on the mat " * 20]
    short, ended, long = tokens_of(tokenizer, *texts, longest=longest)
    assert short == ended == [*tokenizer("ok")["input_ids"], eos] and short.count(eos) == 1
    assert long == tokenizer(texts[2])["input_ids"][:longest] and eos not in long
    encoded = encode_all(
        rows_of([{"text": t} for t in texts]), lambda r: CausalLM().encode(r, EncodingContext(tokenizer, 16))
    )
    with_end = sum(eos in encoded[i]["tokens"] for i in range(3))
    assert with_end + encoded.report.truncated == 3 and encoded.report.truncated == 1


def test_a_text_of_exactly_the_limit_is_not_cut(gpt2_tokenizer):
    ids = gpt2_tokenizer("the cat sat")["input_ids"]
    setting = EncodingContext(gpt2_tokenizer, len(ids) + 1)
    example = CausalLM().encode([{"text": "the cat sat"}], setting)[0]
    assert example["tokens"].tolist() == [*ids, gpt2_tokenizer.eos_token_id] and not example["truncated"]
    example = CausalLM().encode([{"text": "the cat sat"}], EncodingContext(gpt2_tokenizer, len(ids)))[0]
    assert example["tokens"].tolist() == ids and example["truncated"]


def test_one_begin_of_text():
    counts = []
    for bos in ("<s>", None):
        tokenizer = byte_bpe(bos=bos, eos="</s>")
        if bos is None:
            tokenizer.add_special_tokens({"bos_token": "<s>"})
        for text in ("<s>ok", "ok"):
            counts.append(tokens_of(tokenizer, text)[0].count(tokenizer.bos_token_id))
            assert counts[-1] == 0 or tokens_of(tokenizer, text)[0][0] == tokenizer.bos_token_id
    assert counts == [1, 1, 1, 0]


def test_next_tokens_with_padding_that_is_the_end(gpt2_tokenizer):
    gpt2_tokenizer = byte_bpe()
    gpt2_tokenizer.pad_token = gpt2_tokenizer.eos_token
    eos = gpt2_tokenizer.eos_token_id
    example = CausalLM().encode([{"text": "ok"}], EncodingContext(gpt2_tokenizer, 8))[0]
    drawn = CausalLM().random_transform(example, np.random.default_rng(0), None)
    first, second = gpt2_tokenizer("ok")["input_ids"]
    assert drawn["tokens"].tolist() == [first, second, eos]
    # Each token's target is the one after it; the end is learned, nothing is asked of the last position.
    assert drawn["targets"].tolist()[:2] == [second, eos] and drawn["weights"].tolist() == [1, 1, 0]


BYTES = ["Ёж und 猫: 🦔!", "the cat  sat\n", "naïve", " x"]


@pytest.mark.parametrize("tokenizer", [byte_bpe(), byte_bpe(bos="<s>", eos="</s>"), wordpiece()], ids=str)
def test_bytes_of_tokens(tokenizer):
    """All bytes of a text, each once; of pieces of one character the first has them."""
    for text in BYTES:
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        found = sizes_of(text, offsets)
        last = max(end for _, end in offsets)
        assert found.sum() == len(text[:last].encode()) and found.min() >= 0
        for (start, end), size in zip(offsets, found, strict=True):
            assert size == 0 or text[:end].encode()[-size:].endswith(text[start:end].encode())


@pytest.mark.parametrize("rows", [Pad(), Pack(length=64), Chunk(length=9)], ids=str)
def test_bits_per_byte(gpt2_tokenizer, rows):
    """Of a model that guesses evenly: the logarithm of its vocabulary for each token, over the bytes of the targets."""
    task, setting = CausalLM(), EncodingContext(gpt2_tokenizer, None if isinstance(rows, Chunk) else 64)
    source = rows_of([{"text": text} for text in [*TEXTS, "a"]])
    encoded = encode_all(source, lambda some: task.encode(some, setting))
    random_transform = partial(task.random_transform, setting=setting)
    batches = EvalBatches(encoded, rows, 3, 0, random_transform, task.max_predictions, 1, 64, 0)
    total, size, tokens = 0.0, 0.0, 0.0
    for batch in batches:
        scores = LazyLogits(jnp.zeros((*batch["tokens"].shape, 2)), jnp.zeros((200, 2)), None, None)
        bits = task.loss(Outputs(None, scores), batch)["bits_per_byte"]
        total, size, tokens = total + float(bits.total), size + float(bits.count), tokens + batch["weights"].sum()
    assert total == pytest.approx(tokens * np.log2(200), rel=1e-5)
    if isinstance(rows, Pad):
        first = [len(gpt2_tokenizer.decode(gpt2_tokenizer(text)["input_ids"][0])) for text in [*TEXTS, "a"]]
        assert size == sum(map(len, [*TEXTS, "a"])) - sum(first) and encoded.report.truncated == 0


def test_too_short_and_no_end(gpt2_tokenizer):
    assert tokens_of(gpt2_tokenizer, "", gpt2_tokenizer.eos_token, "a")[:2] == ["fewer than two tokens"] * 2
    assert tokens_of(gpt2_tokenizer, "a b", longest=1) == ["fewer than two tokens"]
    with pytest.raises(UserError, match="no end-of-text token"):
        CausalLM().prepare([], EncodingContext(byte_bpe(eos=None), 8))


def test_accuracy_and_perplexity_of_tokens():
    """By hand: of the slots that count, the share that is right, and exp of the mean loss."""
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((3, 7, 11)).astype(np.float32), rng.integers(0, 11, (3, 7))
    targets[:, :4] = logits[:, :4].argmax(-1)  # some are right
    weights = (rng.random((3, 7)) < 0.6).astype(np.float32)
    scores = of_vocabulary(logits)
    sums = token_sums(Outputs(None, scores), {"targets": targets, "weights": weights})
    counted = weights > 0
    right = logits.argmax(-1) == targets
    assert 0 < right[counted].mean() < 1
    assert sums["accuracy"].value() == pytest.approx(right[counted].mean(), abs=1e-6)
    chances = np.take_along_axis(scipy.special.softmax(logits, -1), targets[..., None], -1)[..., 0]
    assert sums["loss"].value() == pytest.approx(-np.log(chances[counted]).mean(), abs=1e-5)
    assert perplexity(sums) == {"perplexity": pytest.approx(np.exp(-np.log(chances[counted]).mean()), rel=1e-5)}
    assert perplexity({"loss": Mean(1e9, 1.0)})["perplexity"] < np.inf
