"""Tags of words: which token stands for which word, the loss, metrics of words, and runs from files to predictions."""

import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import TEXTS, bert_config, byte_bpe, rows_of, save_perturbed, unigram_model, variant, wordpiece
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn import metrics as sklearn
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

import jaxft
from configs.conll import get_config
from jaxft import assets
from jaxft.config import Config, Mesh
from jaxft.config.component import config
from jaxft.config.ranges import problems_of
from jaxft.data import Data, Pack, Pad
from jaxft.data.encoded import encode_all
from jaxft.data.pipeline import Batches, EvalBatches
from jaxft.evaluation.evaluate import evaluate
from jaxft.inference.answer_files import write_answers
from jaxft.models.model import Outputs
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.tagging import BEYOND, MISSING
from jaxft.tasks.token_classification import TAKEN, TokenClassification
from jaxft.tasks.word_alignment import words_of_text
from jaxft.text.entities import Tagset, viterbi
from jaxft.training.fit import fit
from jaxft.training.saved_run import evaluate_model, evaluate_run
from jaxft.training.setup import build
from jaxft.training.step import eval_step

WORDS = ["An", "18th", "century", "(B.C.)", "poet", "of", "Łódź", "unhappy"]
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def unigram(scheme="always") -> transformers.PreTrainedTokenizerFast:
    """As SentencePiece makes them: a text's space is a letter of the piece behind it."""
    made = Tokenizer(unigram_model(TEXTS, 90, ["<pad>", "</s>", "<unk>"]))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def unparted():
    """As the first Llama's: the space is put in front by the normalizer, and nothing cuts a text into words."""
    made = json.loads(unigram().backend_tokenizer.to_str())
    steps = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    made |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}
    made = Tokenizer.from_str(json.dumps(made))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def every_byte():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"]
    )
    made.train_from_iterator(TEXTS, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def split_first(tokenizer):
    """A byte-level tokenizer whose regular expression cuts texts before the bytes are mapped, as in Llama 3's."""
    made = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(r" ?[A-Za-z]+| ?[^A-Za-z\s]+|\s+", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>")


def prefixed(tokenizer):
    """The same byte-level tokenizer, made to put a space in front of a text."""
    made = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


TOKENIZERS = {
    "wordpiece": wordpiece,
    "byte-level": lambda: byte_bpe(bos="<s>", eos="</s>"),
    "every byte": every_byte,
    "with prefix space": lambda: prefixed(every_byte()),
    "regex first": lambda: split_first(byte_bpe()),
    "unigram": unigram,
    "unigram, first": lambda: unigram("first"),
    "unparted": unparted,
    "unigram, never": lambda: unigram("never"),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def row(words, tags):
    return {"tokens": words, "ner_tags": tags}


def example(words, tags, tokenizer, longest=64, labels=LABELS, **more):
    return TokenClassification(labels=labels, **more).encode([row(words, tags)], EncodingContext(tokenizer, longest))[0]


def pieces(tokenizer, words) -> list[list[int]]:
    """Tokens of each word by itself, in the middle of a text."""
    before = tokenizer("the", add_special_tokens=False)["input_ids"]
    texts = [tokenizer(f"the {word}", add_special_tokens=False)["input_ids"] for word in words]
    assert all(text[: len(before)] == before for text in texts)
    return [text[len(before) :] for text in texts]


def test_tokens_of_words(tokenizer):
    """Those of the running text; each word's first token has its label, and no other has one."""
    tags = ["O", "B-PER", "I-PER", "O", "B-LOC", "O", "I-LOC", "B-LOC"]
    made = example(WORDS, tags, tokenizer, repair=False)
    by_word = pieces(tokenizer, WORDS)
    joined = [token for word in by_word for token in word]
    text = tokenizer("the " + " ".join(WORDS), add_special_tokens=False)["input_ids"]
    assert text[-len(joined) :] == joined
    # Where the special tokens go is known from a text of a single token.
    around = tokenizer("the")["input_ids"]
    front = around.index(tokenizer("the", add_special_tokens=False)["input_ids"][0])
    assert made["tokens"][front : front + len(joined)].tolist() == joined
    starts = front + np.cumsum([0, *map(len, by_word)])
    assert made["at"].tolist() == starts[:-1].tolist() and max(map(len, by_word)) >= 3
    assert [LABELS[number] for number in made["targets"][:, 0]] == tags
    assert made["targets"][:, 1].tolist() == [1] + [2] * 7 and np.all(made["weights"] == 1) and not made["truncated"]
    last = example(WORDS, tags, tokenizer, repair=False, pieces="last")
    assert last["at"].tolist() == (starts[1:] - 1).tolist() and np.array_equal(last["targets"], made["targets"])


@pytest.mark.parametrize(
    "name", ["wordpiece", "byte-level", "every byte", "with prefix space", "unigram", "unigram, first"]
)
def test_alignment_as_in_transformers(name):
    """`word_ids` as in transformers' own example of token classification, the tokenizer being made for words."""
    tokenizer = TOKENIZERS[name]()
    theirs = prefixed(tokenizer) if name in ("byte-level", "every byte") else tokenizer
    theirs = theirs(WORDS, is_split_into_words=True, truncation=True, max_length=16)
    labels, before = [], None
    for word in theirs.word_ids():
        labels.append(-100 if word is None or word == before else word % len(LABELS))
        before = word
    made = example(WORDS, [LABELS[i % len(LABELS)] for i in range(len(WORDS))], tokenizer, 16, repair=False)
    ours = np.full(len(made["tokens"]), -100)
    seen = made["weights"] > 0
    ours[made["at"][seen]] = made["targets"][seen, 0]
    assert made["tokens"].tolist() == theirs["input_ids"] and ours.tolist() == labels


def test_all_pieces(tokenizer):
    made = example(["unhappy", "unhappy", "of"], ["B-PER", "I-PER", "O"], tokenizer, pieces="all")
    count = len(pieces(tokenizer, ["unhappy"])[0])
    assert count >= 3 and np.all(np.diff(made["at"]) == 1)
    tags = [LABELS[number] for number in made["targets"][:, 0]]
    assert tags[: 2 * count] == ["B-PER"] + ["I-PER"] * (2 * count - 1) and set(tags[2 * count :]) == {"O"}
    assert np.flatnonzero(made["targets"][:, 1] != 3).tolist() == [0, count, 2 * count]
    singles = example(["unhappy"], ["S-X"], tokenizer, labels=("O", "S-X", "B-X", "I-X", "E-X"), pieces="all")
    assert set(singles["targets"][:, 0].tolist()) == {1}


def test_words_that_the_model_does_not_see(bert_tokenizer):
    """Cut off, or without a token: still a slot each, of which nothing is learned."""
    words = ["the", "", "\u200b", *["cat"] * 9]
    made = example(words, ["O", "B-PER", "O", *["B-LOC"] * 9], bert_tokenizer, 8)
    assert len(made["tokens"]) == 8 and made["truncated"]
    assert made["weights"].tolist() == [1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0] and len(made["at"]) == 12
    assert made["notes"] == {"words": 12, BEYOND: 4, MISSING: 2, TAKEN: 0}
    assert made["targets"][:, 0].tolist() == [0, 1, 0, *[3] * 9]
    every = example(words, ["O", "B-PER", "O", *["B-LOC"] * 9], bert_tokenizer, 8, pieces="all")
    assert np.array_equal(made["targets"], every["targets"]) and np.array_equal(made["weights"], every["weights"])


def test_rows_without_words_or_tags(bert_tokenizer):
    task, setting = TokenClassification(labels=LABELS), EncodingContext(bert_tokenizer, 16)
    rows = [row([], []), row(["a"], [None]), row(["a", "the", "cat"], [None, "B-PER", None]), row([""], ["O"])]
    answers = task.encode(rows, setting)
    assert answers[:2] == ["no words", "no tag"] and task.encode(rows[:1], setting) == ["no words"]
    assert answers[2]["targets"].tolist() == [[1, 1]] and answers[2]["at"].tolist() == [2]
    assert answers[3]["empty"] and not answers[2]["empty"]


@pytest.mark.parametrize(
    "words, tags, message",
    [
        (["a", "b"], ["O"], "2 words in column 'tokens', but 1 tags in column 'ner_tags'"),
        ("a b", ["O"], "column 'tokens' holds 'a b', expected a list with an item for each word"),
        (["a"], "O", "column 'ner_tags' holds 'O', expected a list"),
        (["a", ["b"]], ["O", "O"], "column 'tokens' holds ['b'], expected a text"),
        (["Bonn", "a"], ["B-GPE", "B-GPE"], "tag 'B-GPE' is not among the training tags: O, B-PER, I-PER"),
        (["Bonn"], ["B-PEER"], "Did you mean 'B-PER'?"),
    ],
)
def test_what_is_wrong_with_a_row(bert_tokenizer, words, tags, message):
    rows = rows_of([row(["a"], ["O"]), row(words, tags)])
    with pytest.raises(UserError) as caught:
        encode_all(
            rows, lambda some: TokenClassification(labels=LABELS).encode(some, EncodingContext(bert_tokenizer, 16))
        )
    assert message in str(caught.value) and "row 2" in str(caught.value)


def prepared(tags, classes=None, checkpoint=None, **more):
    rows = rows_of([row(["a"] * len(some), some) for some in tags], {"ner_tags": classes} if classes else None)
    return TokenClassification(**more).prepare(rows, EncodingContext(None, 8, labels=checkpoint))


def test_labels_and_schemes():
    task = prepared([["O", "B-PER"], ["B-LOC", "I-LOC", None]])
    assert (task.labels, task.scheme) == (("B-LOC", "B-PER", "I-LOC", "I-PER", "O"), "BIO")  # I-PER by the scheme
    task = prepared([[1, 0, -1]], ["O", "B-PER", "I-PER"])
    assert (task.labels, task.scheme) == (("O", "B-PER", "I-PER"), "BIO")
    task = prepared([["O", "B-PER"]], checkpoint=["I-PER", "O", "B-PER"])
    assert task.labels == ("I-PER", "O", "B-PER")
    task = prepared([["NN", "VB", "-LRB-"]])
    assert (task.labels, task.scheme) == (("-LRB-", "NN", "VB"), "none")
    assert prepared([["B-PER", "O"]], scheme="none").labels == ("B-PER", "O")
    assert prepared([["B-PER", "O"]], labels=("O", "B-PER", "B-X")).labels == ("O", "B-PER", "B-X")
    for scheme in (None, "BIO"):
        said = "B-PER, .*X.* do not follow one scheme|scheme is BIO, but there is the tag 'X'"
        with pytest.raises(UserError, match=said):
            prepared([["B-PER", "O", "X"]], scheme=scheme)
    with pytest.raises(UserError, match="holds no labels"):
        prepared([[None]])
    assert problems_of(TokenClassification(scheme="BIOES", pieces="none", decode="x", max_lost=2.0)) == [
        "max_lost is 2.0, expected from 0 to 1",
        "scheme is 'BIOES', expected None or BIO or IO or IOBES or BILOU or none. Did you mean 'IOBES'?",
        "pieces is 'none', expected first or last or all.",
        "decode is 'x', expected argmax or viterbi.",
    ]


def test_other_columns(bert_tokenizer):
    task = TokenClassification(words="w", tags="t")
    assert task.columns() == ["w", "t"]
    task = task.prepare(rows_of([{"w": ["a"], "t": ["X"]}]), EncodingContext(bert_tokenizer, 8))
    assert task.encode([{"w": ["a"], "t": ["X"]}], EncodingContext(bert_tokenizer, 8))[0]["targets"].tolist() == [
        [0, 1]
    ]


def test_repairs(bert_tokenizer):
    tags = ["I-PER", "I-PER", "B-PER", "I-LOC", "O"]
    made = example(["a"] * 5, tags, bert_tokenizer)
    assert [LABELS[number] for number in made["targets"][:, 0]] == ["B-PER", "I-PER", "B-PER", "B-LOC", "O"]
    assert made["notes"][TAKEN] == 2
    made = example(["a"] * 5, tags, bert_tokenizer, repair=False)
    assert [LABELS[number] for number in made["targets"][:, 0]] == tags and made["notes"][TAKEN] == 0


# --- loss and metrics ---


def sentences(count, seed=0, longest=9):
    rng = np.random.default_rng(seed)
    known = [word for text in TEXTS for word in text.split()] + ["unhappiest", "Łódź"]
    made = [rng.choice(known, rng.integers(1, longest)).tolist() for _ in range(count)]
    return [row(words, rng.choice(LABELS, len(words)).tolist()) for words in made]


def batches_of(task, rows, tokenizer, builder, kind=Batches, batch=None, longest=32):
    encoded = encode_all(rows_of(rows), lambda some: task.encode(some, EncodingContext(tokenizer, longest)))
    return kind(encoded, builder, batch or len(rows), 0, None, task.max_predictions, 1, longest, 0)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """Directory of a BertForTokenClassification with LABELS."""
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    tokenizer = wordpiece()
    model = transformers.BertForTokenClassification(bert_config(tokenizer, 2, **labels))
    return save_perturbed(model, tokenizer, tmp_path_factory.mktemp("tagger"))


@config
class Memory:
    """A source in memory."""

    rows: list

    def open(self):
        return rows_of(self.rows)


def configured(directory, data, task=None, **more):
    values = {"lr": 1e-3, "batch": len(data), "steps": 1, "mesh": Mesh(data=1), "max_len": 32, "dropout": 0.0, **more}
    return Config(model=str(directory), task=task or TokenClassification(), data=Memory(rows=data), **values)


@pytest.mark.parametrize("how", ["first", "all"])
def test_loss_and_gradient_as_in_transformers_padded_and_packed(tagger, one_device, how):
    rows = sentences(9)
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tagger).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tagger)
    given = tokenizer([one["tokens"] for one in rows], is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full(given["input_ids"].shape, -100)
    for number, one in enumerate(rows):
        before = None
        for place, word in enumerate(given.word_ids(number)):
            if word is not None and (word != before or how == "all"):
                tag = one["ner_tags"][word]
                labels[number, place] = LABELS.index("I" + tag[1:] if word == before and tag != "O" else tag)
            before = word
    expected = theirs(**given, labels=labels).loss
    expected.backward()
    wanted = theirs.classifier.weight.grad.numpy()
    losses = []
    for builder in (Pad(), Pack(length=32)):
        built = build(configured(tagger, rows, TokenClassification(pieces=how, repair=False), batching=builder))
        encoded = built.encode("train")
        batch = built.put(Batches(encoded, builder, 9, 0, None, built.task.max_predictions, 1, 32, 0)[0])
        assert len(batch["tokens"]) == 9 if isinstance(builder, Pad) else len(batch["tokens"]) < 9
        trained, frozen, _ = built.load()

        def mean(params, built=built, batch=batch, frozen=frozen):
            pair = built.loss({**params, **frozen}, batch, None)["loss"]
            return pair.total / pair.count

        value, gradient = jax.jit(jax.value_and_grad(mean))(trained)
        losses.append(float(value))
        (found,) = [np.asarray(x) for path, x in gradient.items() if path.startswith("head.out") and x.ndim == 2]
        found = found if found.shape == wanted.shape else found.T
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(losses, expected.item(), rtol=1e-5)


def kept_of(task, batches, score):
    """An evaluation whose scores (words of an example, classes) are `score(source row)`."""

    def step(batch):
        classes = len(task.labels)
        logits = np.zeros((*batch["weights"].shape, classes), np.float32)
        for line, slots in enumerate(batch["index"]):
            for source in set(slots[slots >= 0].tolist()):
                where = np.flatnonzero(slots == source)
                logits[line, where] = score(source, len(where))
        out = Outputs(None, jnp.asarray(logits))
        arrays = {key: jnp.asarray(value) for key, value in batch.items()}
        return eval_step({}, {}, arrays, forward=lambda params, batch, key: out, task=task)

    return evaluate(step, [batches[i] for i in range(len(batches))], lambda batch: batch, task)


@pytest.mark.parametrize("batch", [1, 4, 32])
@pytest.mark.parametrize("how", ["first", "all"])
def test_metrics_are_of_words(bert_tokenizer, batch, how):
    """One tag a word, whatever is learned of its pieces and how sentences share batches; unseen words are O."""
    rows = [row(["the"] * 40, ["O"] * 35 + ["B-LOC", "I-LOC", "B-PER", "O", "B-PER"]), *sentences(21, 3)]
    task = TokenClassification(labels=LABELS, repair=False, pieces=how)
    made = batches_of(task, rows, bert_tokenizer, Pad(), EvalBatches, batch)
    rng, scores = np.random.default_rng(5), {}

    def score(source, count):
        return scores.setdefault(source, rng.standard_normal((count, len(LABELS))))

    numbers, figures, _ = kept_of(task, made, score)
    found = []
    for number, one in enumerate(rows):
        encoded = bert_tokenizer(one["tokens"], is_split_into_words=True, truncation=True, max_length=32)
        ids = [word for word in encoded.word_ids() if word is not None]
        slots = list(dict.fromkeys(ids)) if how == "first" else ids
        answers = scores[number].argmax(-1)
        seen = {word: LABELS[answers[slots.index(word)]] for word in set(slots)}
        found.append([seen.get(word, "O") for word in range(len(one["tokens"]))])
    truth = [one["ner_tags"] for one in rows]
    assert numbers["f1"] == pytest.approx(f1_score(truth, found), abs=1e-12)
    flat = sum(truth, []), sum(found, [])
    assert numbers["accuracy"] == pytest.approx(sklearn.accuracy_score(*flat), abs=1e-12)
    assert [figure["title"] for figure in figures] == ["Entities", "Confusion matrix", "Classes"]
    assert np.sum(figures[1]["counts"]) == len(flat[0])
    target_stats = task.target_stats(made.encoded.flat["targets"])
    assert target_stats == {name: flat[0].count(name) for name in LABELS}
    assert made.encoded.report.notes["words"] == len(flat[0]) and made.encoded.report.notes[BEYOND] == 10


def test_metrics_of_parts_of_speech(bert_tokenizer):
    """Without O a word that is not seen is wrong."""
    labels = ("N", "V", "X")
    rows = [row(["the"] * 8, ["N", "V", "N", "V", "N", "V", "N", "V"]), row(["a", "cat"], ["X", "N"])]
    task = TokenClassification(labels=labels)
    made = batches_of(task, rows, bert_tokenizer, Pad(), EvalBatches, 2, longest=8)
    answers = [[0, 1, 1, 1, 0, 1, 2, 2], [2, 0]]
    numbers, figures, _ = kept_of(task, made, lambda source, count: 5 * np.eye(3)[answers[source]])
    truth = [0, 1, 0, 1, 0, 1, 0, 1, 2, 0]
    found = [0, 1, 1, 1, 0, 1, -1, -1, 2, 0]
    assert numbers["accuracy"] == pytest.approx(0.7)
    wanted = sklearn.f1_score(truth, found, average="macro", labels=[0, 1, 2])
    assert numbers["f1_macro"] == pytest.approx(wanted, abs=1e-12) and "f1" not in numbers
    assert [figure["title"] for figure in figures] == ["Confusion matrix", "Classes"]


def test_constrained_decoding(bert_tokenizer):
    """Where the best tag of each word makes no sequence of the scheme, the best sequence is another."""
    rows = [row(["the", "cat", "sat"], ["B-PER", "I-PER", "O"]), row(["the", "", "cat"], ["B-LOC", "O", "B-PER"])]
    scores = {
        0: np.array([[2.0, 1.9, 0, 0, 0], [0, 0, 3.0, 0, 0], [1.0, 0, 0, 0, 0.9]]),
        1: np.array([[0, 0, 0, 4.0, 0], [0, 0, 9.0, 0, 0], [0, 1.0, 1.1, 0, 0]]),
    }
    given = {}
    for decode in ("argmax", "viterbi"):
        task = TokenClassification(labels=LABELS, decode=decode, scheme="BIO")
        made = batches_of(task, rows, bert_tokenizer, Pad(), EvalBatches, 2)
        given[decode] = kept_of(task, made, lambda source, count: scores[source])[0]
    assert given["viterbi"]["f1_strict"] == 1.0 and given["argmax"]["f1_strict"] == 0.5
    assert given["viterbi"]["accuracy"] == 1.0 and given["viterbi"]["loss"] == given["argmax"]["loss"]


def test_too_many_words_lost(tagger, one_device):
    rows = [row(["the"] * 40, ["O"] * 40), *[row(["a"] * 9, ["B-PER"] * 9) for _ in range(10)]]
    with pytest.raises(UserError) as caught:
        build(configured(tagger, rows, init="backbone")).encode("train")
    assert str(caught.value) == (
        "train: 10 of 130 words (7.7%) are beyond config.max_len, in 1 texts; config.task.max_lost allows 1.0%: set a "
        "larger config.max_len, or split the texts"
    )
    encoded = build(configured(tagger, rows, TokenClassification(max_lost=0.08), init="backbone")).encode("train")
    assert encoded.report.notes[BEYOND] == 10 and encoded.report.truncated == 1


# --- predictions ---


@pytest.fixture(scope="module")
def model(tagger):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda *backend: 1)
        return jaxft.load(str(tagger))


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("", []),
        ("  \n", []),
        ("Łódź, the u;n! -- unhappy!", ["Łódź", ",", "the", "u", ";", "n", "!", "--", "unhappy", "!"]),
        (" \tthe  cat\nsat\u00a0on", ["the", "cat", "sat", "on"]),
        ("(b;c;) 1,000, a-b-", ["(", "b", ";", "c", ";)", "1,000", ",", "a-b", "-"]),
        ("हिन्दी cafe\u0301 18th", ["हिन्दी", "cafe\u0301", "18th"]),
    ],
)
@pytest.mark.parametrize("name", ["every byte", "with prefix space", "unigram", "unigram, first", "unparted"])
def test_words_of_a_text(name, text, wanted):
    tokenizer = TOKENIZERS[name]()
    encoding = tokenizer(text).encodings[0]
    found = words_of_text(text, encoding)
    words = [text[start:stop] for _, start, stop in found]
    assert words == wanted
    # Each word is read at the first token that is of it: its text begins there.
    for place, start, _ in found:
        begin, end = encoding.offsets[place]
        assert begin <= start <= end


def test_a_space_that_is_a_token_by_itself():
    """Is the first of its word in training: read there."""
    encoding = unigram()("unhappy Łódź").encodings[0]
    ids = encoding.word_ids
    assert encoding.tokens[ids.index(1)] == "▁"
    assert words_of_text("unhappy Łódź", encoding) == [(ids.index(0), 0, 7), (ids.index(1), 8, 12)]


def test_words_of_wordpiece(bert_tokenizer):
    text = "Unhappy (B.C.) sailors, U.N. -- \u4f60\u597d"
    found = words_of_text(text, bert_tokenizer(text).encodings[0])
    assert [text[start:stop] for _, start, stop in found] == [
        "Unhappy",
        "(",
        "B.C",
        ".",
        ")",
        "sailors",
        ",",
        "U.N",
        ".",
        "-",
        "-",
        "\u4f60",
        "\u597d",
    ]
    accents = "cafe\u0301 18th"
    tokenizer = TOKENIZERS["every byte"]()
    assert len(tokenizer("\u4f60\u597d")["input_ids"]) == 6  # three bytes a letter
    for one, wanted in ((accents, accents.split()), ("a\u4f60\u597d", ["a", "\u4f60", "\u597d"])):
        found = words_of_text(one, tokenizer(one).encodings[0])
        assert [one[start:stop] for _, start, stop in found] == wanted


def their_tags(directory, text) -> tuple[list, np.ndarray]:
    """(start, stop) and probabilities of each word, by transformers."""
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(directory).eval()
    given = transformers.AutoTokenizer.from_pretrained(directory)(
        text, return_tensors="pt", return_offsets_mapping=True
    )
    offsets, ids = given.pop("offset_mapping")[0].tolist(), given.word_ids()
    with torch.no_grad():
        chances = theirs(**given).logits[0].softmax(-1).numpy()
    places = [ids.index(word) for word in dict.fromkeys(ids) if word is not None]
    spans = [
        (offsets[i][0], max(stop for (_, stop), own in zip(offsets, ids, strict=True) if own == ids[i])) for i in places
    ]
    return spans, chances[places]


def test_entities_of_texts(model, tagger):
    """Those that seqeval finds in the tags of transformers; several batches, which are sorted by length."""
    texts = [*TEXTS, "Unhappy  sailors returned,\nto the (unhappiest) harbour", "", "a"]
    answers = model.predict(texts, batch=4)
    count = 0
    for text, answer in zip(texts, answers, strict=True):
        spans, chances = their_tags(tagger, text)
        best = chances.argmax(-1)
        wanted = [
            {
                "type": kind,
                "start": spans[a][0],
                "end": spans[b][1],
                "text": text[spans[a][0] : spans[b][1]],
                "score": pytest.approx(float(chances[range(a, b + 1), best[a : b + 1]].mean()), abs=1e-5),
            }
            for kind, a, b in get_entities([LABELS[number] for number in best])
        ]
        assert answer == {"entities": wanted}
        assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in answer["entities"])
        count += len(wanted)
    assert count > 20
    for answer, text in zip(model.predict(texts, decode="viterbi"), texts, strict=True):
        spans, chances = their_tags(tagger, text)
        best = viterbi(np.log(chances), np.arange(len(chances)) == 0, Tagset(LABELS, "BIO"))
        wanted = get_entities([LABELS[number] for number in best])
        assert [(e["type"], e["start"], e["end"]) for e in answer["entities"]] == [
            (kind, spans[a][0], spans[b][1]) for kind, a, b in wanted
        ]


def test_what_predict_refuses_and_what_it_cuts(model, tiny_classifier, one_device):
    with pytest.raises(UserError, match="text 2 is a pair, but this model reads single texts"):
        model.predict(["a", ("a", "b")])
    with pytest.raises(UserError, match="decode is 'viterbo', expected argmax or viterbi. Did you mean 'viterbi'"):
        model.predict(["a"], decode="viterbo")
    with pytest.raises(UserError, match="sequence-classification takes no 'decode'"):
        jaxft.load(str(tiny_classifier)).predict(["a"], decode="viterbi")
    (answer,) = model.predict(["the " * 100])
    assert answer["read"] == 62 * 4 - 1 and max(entity["end"] for entity in answer["entities"]) <= answer["read"]


def test_parts_of_speech_of_a_text(tagger, tmp_path, one_device):
    names = {"id2label": dict(enumerate("NVADX")), "label2id": {name: i for i, name in enumerate("NVADX")}}
    other = jaxft.load(str(variant(tagger, tmp_path / "tags", config=names)))
    text = "the unhappy sailors, 10!"
    (answer,) = other.predict([text])
    spans, chances = their_tags(tagger, text)
    assert answer == {
        "tags": [
            {
                "word": text[start:stop],
                "start": start,
                "end": stop,
                "tag": "NVADX"[row.argmax()],
                "score": pytest.approx(row.max().item(), abs=1e-5),
            }
            for (start, stop), row in zip(spans, chances, strict=True)
        ]
    }


# --- from files to an exported model ---

SENTENCES = """-DOCSTART- -X- -X- O

sailors NNS B-NP I-PER
returned VBD B-VP O
to TO B-PP O
the DT B-NP O
harbour NN I-NP I-LOC

good JJ B-NP O
actors NNS I-NP I-PER
and CC O O
bad JJ B-NP B-PER
actors NNS I-NP I-PER
"""


@pytest.fixture
def shared_task(tmp_path):
    """A directory in the layout of CoNLL-2003, in which B- stands between entities that touch."""
    folder = tmp_path / "conll"
    folder.mkdir()
    for name, times in (("eng.train", 8), ("eng.testa", 2), ("eng.testb", 3)):
        (folder / name).write_text(SENTENCES * times)
    return folder


def test_conll_from_files_to_predictions(shared_task, tiny_bert, tmp_path, one_device, caplog):
    cfg = get_config(str(shared_task))
    cfg = replace(cfg, model=str(tiny_bert), steps=2, epochs=None, batch=4, batching=Pack(length=32), max_len=32)
    workdir = str(tmp_path / "run")
    with caplog.at_level("INFO", "jaxft"):
        fit(cfg, workdir)
    assert "16 of 16 rows" in caplog.text and "24 tags I- that begin an entity, read as B-" in caplog.text
    scores = evaluate_run(workdir, None)
    expected = {"loss", "accuracy", "precision", "recall", "f1", "f1_macro", "f1_PER", "f1_LOC"}
    assert expected <= scores["val"].keys() and scores["val"].keys() == scores["test"].keys()
    labels = {0: "B-LOC", 1: "B-PER", 2: "I-LOC", 3: "I-PER", 4: "O"}
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(f"{workdir}/model")
    assert theirs.config.id2label == labels and theirs.config.label2id == {name: i for i, name in labels.items()}
    assert evaluate_model(cfg, f"{workdir}/model")["test"] == pytest.approx(scores["test"], abs=1e-5)
    rows = Data(path=write_lines(tmp_path / "in.jsonl", ["good sailors returned to the harbour", "a", ""])).open()
    model = jaxft.load(f"{workdir}/model").departing(decode="viterbi")
    write_answers(model, rows, ["text"], 2, str(tmp_path / "out.jsonl"))
    for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()):
        assert all(line["text"][e["start"] : e["end"]] == e["text"] for e in line["entities"])
    assert "Entities" in (tmp_path / "run" / "report.html").read_text()


def write_lines(path, texts) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.mark.parametrize("tags, scheme", [("pos_tags", "none"), ("chunk_tags", "BIO")])
def test_other_tags_of_the_same_sentences(shared_task, tiny_bert, one_device, tags, scheme):
    cfg = get_config(str(shared_task))
    built = build(
        replace(cfg, model=str(tiny_bert), task=TokenClassification(tags=tags), max_len=32, batching=Pad(), batch=8)
    )
    assert built.task.scheme == scheme and built.encode("train").report.notes["words"] == 80


def test_conll_without_its_files(tmp_path):
    with pytest.raises(UserError, match="no file of the train sentences: expected eng.train or train.txt or train.con"):
        get_config(str(tmp_path))
    cfg = get_config()
    assert cfg.data.split == "train" and not cfg.problems() and cfg.evals["val"].data.split == "validation"


def test_tags_that_training_did_not_have(shared_task, tiny_bert, one_device):
    (shared_task / "eng.testb").write_text("Bonn NNP B-NP I-GPE\nwins VBZ B-VP O\n")
    cfg = get_config(str(shared_task))
    built = build(replace(cfg, model=str(tiny_bert), max_len=32, batching=Pad(), batch=8))
    with pytest.raises(UserError, match="eng.testb, row 1: tag 'I-GPE' is not among the training tags"):
        built.encode("test")


def test_words_hold_their_marks(tmp_path):
    """Accents, vowel signs and variation selectors of which BERT's tokenizer makes no token."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(assets.path("tiny-encoder"))
    guru, heart, thai = "\u0917\u0941\u0930\u0941", "\u2764\ufe0f", "\u0e01\u0e33"
    for line in (
        f"{guru} came",
        f"{heart} Rome",
        f"the cafe\u0301, {guru}!",
        f"{guru}. {thai} \U0001f469\u200d\U0001f4bb",
    ):
        found = words_of_text(line, tokenizer(line).encodings[0])
        wanted = re.findall(r"[^\s,.!]+|[,.!]", line)
        assert [line[start:stop] for _, start, stop in found] == wanted
    line = "\u203c\ufe0fRome"  # punctuation and a word, as without the mark
    assert [start for _, start, _ in words_of_text(line, tokenizer(line).encodings[0])] == [0, 2]
