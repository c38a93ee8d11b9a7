"""Entities from spans of characters: their tags, what is refused, and runs from exports of tools to predictions."""

import json
import re

import jax
import numpy as np
import pytest
import transformers
from conftest import TEXTS, bert_config, rows_of, save_perturbed, wordpiece
from seqeval.metrics import classification_report, f1_score
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import jaxft
from jaxft.config import Config, Eval, Mesh
from jaxft.config.ranges import problems_of
from jaxft.data import Data, Pad
from jaxft.data.encoded import encode_all
from jaxft.inference.answer_files import write_answers
from jaxft.inference.inputs import text_columns
from jaxft.problems import UserError
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.entity_spans import CUT, LOST, EntitySpans
from jaxft.tasks.tagging import BEYOND
from jaxft.training.fit import fit
from jaxft.training.saved_run import evaluate_model, evaluate_run

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
TEXT = "😀 Unhappy Sailors returned\nto 𐌰 Harbour, the good harbour!"
PIECES = [("Unhappy Sailors", "PER"), ("𐌰 Harbour", "LOC"), ("good harbour", "LOC")]


def every_byte():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


def marked(text, pieces):
    found = [(text.index(piece), len(piece), label) for piece, label in pieces]
    return {"text": text, "spans": [{"start": s, "end": s + n, "label": label} for s, n, label in found]}


def encoded(row, tokenizer, longest=64, labels=LABELS, **more):
    task = EntitySpans(labels=labels, **more)
    return task.encode([row], EncodingContext(tokenizer, longest))[0]


def split(text):
    """Words and marks with their places, by a regular expression; letters beyond the BMP are letters, too."""
    return [(found.start(), found.end()) for found in re.finditer(r"\w+|[^\w\s]", text)]


def bio(words, spans):
    """The tag of each word, by its characters."""
    tags = []
    for start, _ in words:
        inside = next((one for one in spans if one["start"] <= start < one["end"]), None)
        tags.append("O" if inside is None else f"{'B' if start == inside['start'] else 'I'}-{inside['label']}")
    return tags


@pytest.mark.parametrize("made", [wordpiece, every_byte])
def test_tags_of_words(made):
    tokenizer, row = made(), marked(TEXT, PIECES)
    example = encoded(row, tokenizer)
    theirs = tokenizer(TEXT, return_offsets_mapping=True)
    assert example["tokens"].tolist() == theirs["input_ids"]
    words = split(TEXT)
    assert [LABELS[number] for number in example["targets"][:, 0]] == bio(words, row["spans"])
    starts = [theirs["offset_mapping"][at] for at in example["at"]]
    assert all(a <= start < max(b, a + 1) or TEXT[a] == " " for (start, _), (a, b) in zip(words, starts, strict=True))
    assert np.all(example["weights"] == 1) and "fault" not in example and example["notes"]["spans"] == 3


@pytest.mark.parametrize(
    "scheme, wanted",
    [
        ("IO", ["O", "I-PER", "I-PER", "O", "O", "I-LOC", "I-LOC", "O", "O", "I-LOC", "I-LOC", "O"]),
        ("IOBES", ["O", "B-PER", "E-PER", "O", "O", "B-LOC", "E-LOC", "O", "O", "B-LOC", "E-LOC", "O"]),
        ("BILOU", ["O", "B-PER", "L-PER", "O", "O", "B-LOC", "L-LOC", "O", "O", "B-LOC", "L-LOC", "O"]),
    ],
)
def test_schemes(scheme, wanted, bert_tokenizer):
    setting = EncodingContext(bert_tokenizer, 64)
    rows = [marked(TEXT, PIECES), marked("the harbour was a good one", [("the harbour was", "LOC"), ("good", "LOC")])]
    task = EntitySpans(scheme=scheme).prepare(rows_of(rows), setting)
    assert len(task.labels) == 1 + 2 * len(scheme.replace("O", "")) and task.scheme == scheme
    found = task.encode(rows, setting)
    assert [task.labels[number] for number in found[0]["targets"][:, 0]] == wanted
    letters = {"IO": "IIIOI", "IOBES": "BIEOS", "BILOU": "BILOU"}[scheme]
    assert "".join(task.labels[number][0] for number in found[1]["targets"][:5, 0]) == letters


def test_tokens_as_units_express_what_words_do_not(bert_tokenizer):
    """A span inside a word: all of the word is tagged, and it is said; with tokens the place is exact."""
    text = "unhappy dog-cat, 👩‍👩‍👧 sat"
    row = marked(text, [("appy", "PER"), ("cat", "LOC")])
    example = encoded(row, bert_tokenizer)
    assert example["fault"] == (CUT, "3 to 7, 'appy'")
    assert [LABELS[number] for number in example["targets"][:2, 0]] == ["B-PER", "B-LOC"]
    exact = encoded(row, bert_tokenizer, units="tokens")
    offsets = bert_tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    tags = [LABELS[number] for number in exact["targets"][:, 0]]
    places = [(kind, offsets[exact["at"][a]][0], offsets[exact["at"][b]][1]) for kind, a, b in get_entities(tags)]
    assert [(kind, text[a:b]) for kind, a, b in places] == [("PER", "appy"), ("LOC", "cat")]
    assert "fault" not in exact and len(tags) == 9
    both = encoded(marked("dog-cat sat", [("dog", "PER"), ("cat", "LOC")]), bert_tokenizer)
    assert both["fault"] == (LOST, "4 to 7, 'cat'") and both["targets"][:, 0].tolist() == [3, 0]
    assert encoded(marked("dog-cat sat", [("-", "PER"), ("cat", "LOC")]), bert_tokenizer)["targets"][0, 0] == 3
    setting = EncodingContext(bert_tokenizer, 64)
    report = encode_all(rows_of([row]), lambda rows: EntitySpans(labels=LABELS).encode(rows, setting), name="x").report
    (problem,) = EntitySpans(labels=LABELS).check_data(report)
    assert "1 of 1 rows have a span that begins or ends inside a word" in problem
    assert "row 1: 3 to 7, 'appy'" in problem and problem.endswith(
        "with config.task.units=tokens, a span may end inside a word"
    )


def test_pieces_of_a_single_word(bert_tokenizer):
    """Special tokens, whose offsets are those of the first character, are no pieces of it."""
    row = marked("unhappy", [("unhappy", "PER")])
    for pieces, at in {"first": [1], "last": [3], "all": [1, 2, 3]}.items():
        example = encoded(row, bert_tokenizer, pieces=pieces)
        assert (
            example["at"].tolist() == at and [LABELS[i][0] for i in example["targets"][:, 0]] == list("BII")[: len(at)]
        )
    saved = EntitySpans(labels=LABELS, units="tokens", pieces="all").inference({})
    assert saved.columns == ("text",) and (saved.tags.units, saved.tags.pieces) == ("tokens", "all")


def test_white_space_and_repeated_spans(bert_tokenizer):
    row = {"text": "the  good dog ", "spans": [{"start": 4, "end": 10, "label": " PER "}] * 2}
    example = encoded(row, bert_tokenizer)
    assert [LABELS[number] for number in example["targets"][:, 0]] == ["O", "B-PER", "O"] and "fault" not in example


def test_spans_that_cannot_be_tags_are_listed_with_their_rows(bert_tokenizer):
    text = "e\u0301 the good dog 👩‍👩‍👧"
    span = lambda start, end, label="X": {"start": start, "end": end, "label": label}  # noqa: E731
    spans = [
        [span(0, 1)],
        [span(0, 2), span(15, 17)],
        [span(3, 99)],
        [span(9, 7)],
        [span(-1, 2)],
        [span(2, 3)],
        [span(3, 11), span(7, 15, "Y")],
        [span(3, 11), span(3, 11, "Y")],
        [{"start": 1, "end": 2}],
        [[1, 2, "X"]],
    ]
    rows = rows_of([marked("a good dog", [("dog", "PER")]), *({"text": text, "spans": some} for some in spans)])
    setting = EncodingContext(bert_tokenizer, 64)
    with pytest.raises(UserError) as caught:
        EntitySpans().prepare(rows, setting)
    wanted = [
        "rows, row 2: the span 0 to 1 (X) begins or ends inside a character, of 'e\u0301'",
        f"rows, row 3: the span 15 to 17 (X) begins or ends inside a character, of {' 👩‍👩‍👧'!r}",
        "rows, row 4: the span 3 to 99 (X) is outside of the text, which has 21 characters",
        "rows, row 5: the span 9 to 7 (X) is outside of the text",
        "rows, row 6: the span -1 to 2 (X) is outside of the text",
        "rows, row 7: the span 2 to 3 (X) holds no text",
        "rows, row 8: the spans 3 to 11 (X) and 7 to 15 (Y) overlap",
        "rows, row 9: the spans 3 to 11 (X) and 3 to 11 (Y) overlap",
        "rows, row 10: column 'spans' holds the span 1 to 2 without a label",
        "rows, row 11: column 'spans' holds [1, 2, 'X'], expected a span with start, end and label",
    ]
    assert [a[: len(b)] for a, b in zip(caught.value.problems, wanted, strict=True)] == wanted
    with pytest.raises(UserError, match="rows, row 2: the span 0 to 1"):
        encode_all(rows, lambda some: EntitySpans(labels=LABELS).encode(some, setting), name="rows")


def test_what_a_configuration_may_say(bert_tokenizer):
    found = problems_of(EntitySpans(units="word", scheme="none"))
    assert "units is 'word', expected words or tokens. Did you mean 'words'?" in found and len(found) == 2
    setting = EncodingContext(bert_tokenizer, 64)
    with pytest.raises(UserError, match="labels are not tags such as O"):
        EntitySpans(labels=("PER", "LOC")).prepare(rows_of([marked(TEXT, PIECES)]), setting)
    with pytest.raises(UserError, match="column 'spans' holds no span"):
        EntitySpans().prepare(rows_of([{"text": "a", "spans": []}]), setting)
    with pytest.raises(UserError, match="type 'ORG' is not among the training entity types: LOC, PER"):
        encoded(marked("a dog", [("dog", "ORG")]), bert_tokenizer)
    rows = [{"text": "a", "spans": None}, {"text": " ", "spans": []}, {"text": "the dog", "spans": []}]
    found = EntitySpans(labels=LABELS).encode(rows, setting)
    assert found[:2] == ["no spans", "no words"] and found[2]["targets"][:, 0].tolist() == [0, 0]
    own = EncodingContext(bert_tokenizer, 64, labels=[*LABELS[::-1]])
    assert EntitySpans().prepare(rows_of([marked(TEXT, PIECES)]), own).labels == LABELS[::-1]


def test_a_text_that_is_too_long(bert_tokenizer):
    text = "the dog sat on the mat and the good dog sat"
    example = encoded(marked(text, [("dog", "PER"), ("good dog", "PER")]), bert_tokenizer, 8)
    assert len(example["tokens"]) == 8 and example["truncated"] and example["notes"][BEYOND] == 11 - 6
    assert example["weights"].tolist() == [1] * 6 + [0] * 5
    assert [LABELS[number][0] for number in example["targets"][:, 0]] == list("OBOOOOOOBIO")


SENTENCES = [
    marked(f"{emoji}the {who} sailors sat on a {where}, 10!", [(f"{who} sailors", "PER"), (where, "LOC")])
    for emoji in ("😀 ", "", "👩‍👩‍👧 𐌰 ")
    for who in ("unhappy", "good", "bad")
    for where in ("mat", "log", "harbour")
]


def label_studio(rows):
    """An export whose offsets are those of JavaScript."""
    units = lambda text: len(text.encode("utf-16-le")) // 2  # noqa: E731
    tasks = []
    for number, row in enumerate(rows, 1):
        results = []
        for one in row["spans"]:
            value = {"start": units(row["text"][: one["start"]]), "end": units(row["text"][: one["end"]])}
            value |= {"text": row["text"][one["start"] : one["end"]], "labels": [one["label"]]}
            results.append({"value": value, "type": "labels", "from_name": "label", "to_name": "text", "id": "a"})
        annotation = {"id": number, "result": results, "was_cancelled": False, "ground_truth": False}
        tasks.append({"id": number, "data": {"text": row["text"]}, "annotations": [annotation], "predictions": []})
    return tasks


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_bert):
    """(configuration, work directory) of a run that learned an export of Label Studio by heart."""
    folder = tmp_path_factory.mktemp("spans")
    (folder / "train.json").write_text(json.dumps(label_studio(SENTENCES)))
    lines = [{"text": r["text"], "label": [[s["start"], s["end"], s["label"]] for s in r["spans"]]} for r in SENTENCES]
    (folder / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cfg = Config(
        model=str(tiny_bert),
        task=EntitySpans(),
        data=Data(path=str(folder / "train.json")),
        evals={"val": Eval(data=Data(path=str(folder / "val.jsonl")))},
        batching=Pad(),
        lr=3e-3,
        batch=9,
        mesh=Mesh(data=1),
        steps=40,
        max_len=32,
        max_unknown=0.5,
        dropout=0.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda *backend: 1)
        fit(cfg, str(folder / "run"))
    return cfg, str(folder / "run")


def test_from_an_export_to_predictions(run, tmp_path, one_device):
    cfg, workdir = run
    scores = evaluate_run(workdir, None)["val"]
    assert scores["f1"] > 0.95 and {"f1_PER", "f1_LOC", "precision_strict"} <= scores.keys()
    assert evaluate_model(cfg, f"{workdir}/model")["val"] == pytest.approx(scores, abs=1e-5)
    model = jaxft.load(f"{workdir}/model")
    rows = cfg.evals["val"].data.open()
    columns = text_columns(rows, model.inference)
    assert columns == ["text"]
    write_answers(model, rows, columns, 4, str(tmp_path / "out.jsonl"))
    lines = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    assert [line["spans"] for line in lines] == [row["spans"] for row in SENTENCES]
    found = [[{"start": e["start"], "end": e["end"], "label": e["type"]} for e in line["entities"]] for line in lines]
    right = sum(one in row["spans"] for row, some in zip(SENTENCES, found, strict=True) for one in some)
    assert 2 * right / (sum(map(len, found)) + 54) == pytest.approx(scores["f1"])
    assert all(line["text"][e["start"] : e["end"]] == e["text"] for line in lines for e in line["entities"])


@pytest.mark.parametrize("units", ["words", "tokens"])
def test_evaluation_is_that_of_seqeval_on_predictions(units, tmp_path, one_device):
    """Entity F1 of evaluation is seqeval's F1 of the predicted entities' tags, for a model that makes errors."""
    tokenizer = wordpiece()
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    net = transformers.BertForTokenClassification(bert_config(tokenizer, 2, **names))
    directory = save_perturbed(net, tokenizer, tmp_path / "tagger")
    model = jaxft.load(str(directory)).departing(units=units)
    answers = model.predict([row["text"] for row in SENTENCES])
    found = [[{"start": e["start"], "end": e["end"], "label": e["type"]} for e in one["entities"]] for one in answers]
    # Some of what it finds is declared to be true.
    rows = [
        row | ({"spans": some} if i % 2 else {}) for i, (row, some) in enumerate(zip(SENTENCES, found, strict=True))
    ]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = Config(
        model=str(directory),
        task=EntitySpans(units=units, fault_limit=1.0),
        data=Data(path="unused.jsonl"),
        evals={"val": Eval(data=Data(path=str(tmp_path / "val.jsonl")))},
        lr=1e-3,
        batch=9,
        steps=1,
        max_len=64,
        max_unknown=0.9,
    )
    scores = evaluate_model(cfg, str(directory))["val"]
    truth, guesses = [], []
    for row, guessed in zip(rows, found, strict=True):
        if units == "words":
            words = split(row["text"].replace("👩‍👩‍👧", "@@@@@")) if "👩" not in row["text"] else None
            words = words or [(0, 5), *((a + 5, b + 5) for a, b in split(row["text"][5:]))]
        else:
            offsets = tokenizer(row["text"], return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
            words = [(a, b) for a, b in offsets if not 0 < a < 5 or "👩" not in row["text"]]
        truth.append(bio(words, row["spans"]))
        guesses.append(bio(words, guessed))
    assert scores["f1"] == pytest.approx(f1_score(truth, guesses))
    report = classification_report(truth, guesses, output_dict=True, zero_division=0)
    assert scores["f1_PER"] == pytest.approx(report["PER"]["f1-score"]) and 0 < scores["f1"] < 1
