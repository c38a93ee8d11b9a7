"""Question answering: windows beside transformers' tokenizers, scores by SQuAD's rules, choices by brute force."""

import collections
import json
import re
import string
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import regex
import torch
import transformers
from conftest import STRANGE, TEXTS, byte_bpe, rows_of, save_perturbed, unigram, wordpiece
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxft
from jaxft import assets
from jaxft.cli.command import CONFIG, parse
from jaxft.config import load_config
from jaxft.config.ranges import problems_of
from jaxft.data import Chunk, Pack, Pad
from jaxft.data.data_report import fault_problems
from jaxft.data.encoded import encode_all
from jaxft.data.pipeline import Batches, EvalBatches
from jaxft.data.source import Data
from jaxft.evaluation.breakdown import Breakdown
from jaxft.evaluation.evaluate import evaluate
from jaxft.models.model import Outputs
from jaxft.models.params import bind
from jaxft.problems import UserError
from jaxft.reports.page import data_rows
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.question_answering import LOST, QuestionAnswering, place_of, windows
from jaxft.tasks.segment_log_softmax import segment_log_softmax
from jaxft.tasks.template import ids_of
from jaxft.text.spans import best_spans, best_threshold, choose, exact_match, f1, squad_metrics, squad_scores
from jaxft.training.fit import fit
from jaxft.training.saved_run import evaluate_model, evaluate_run

CONTEXTS = [" ".join(TEXTS), " ".join([STRANGE] * 4), STRANGE, "short", ""]


TOKENIZERS = {
    "wordpiece": partial(wordpiece, [*TEXTS, STRANGE], 160),
    "byte_bpe": partial(byte_bpe, texts=[*TEXTS, STRANGE], vocabulary=300),
    "unigram": unigram,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def asked(context, text, question="where is the cat", start=None):
    start = context.index(text) if start is None else start
    return {"question": question, "context": context, "answers": {"text": [text], "answer_start": [start]}}


def unanswered(context, question="why"):
    return {"question": question, "context": context, "answers": {"text": [], "answer_start": []}}


ROWS = [asked(text, text.split()[n], "the cat") for n, text in enumerate(TEXTS, 1)] + [unanswered(TEXTS[0])]


def encoded_of(rows, tokenizer, max_len=40, stride=8, **more):
    task = QuestionAnswering(stride=stride, **more)
    setting = EncodingContext(tokenizer, max_len)
    return task, encode_all(rows_of(rows), lambda piece: task.encode(piece, setting), name="rows")


# --- windows ---


def clusters(context: int, start: int, end: int) -> list[int]:
    """Ends of the grapheme clusters of a context that the characters are of."""
    found = [one.span() for one in regex.finditer(r"\X", CONTEXTS[context])]
    inside = [span for span in found if span[0] < end and span[1] > start]
    return [inside[0][0], inside[-1][1]] if start < end else [start, end]


def test_windows_are_those_of_the_tokenizer(tokenizer):
    questions = ["where is the cat", "naïve café?", "", "10 €", ""]
    left = tokenizer.padding_side == "left"
    first, second = (CONTEXTS, questions) if left else (questions, CONTEXTS)
    wanted = tokenizer(
        first,
        second,
        truncation="only_first" if left else "only_second",
        max_length=40,
        stride=8,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found = windows(EncodingContext(tokenizer, 40), questions, CONTEXTS, 8, 64)
    flat = [(row, window) for row, some in enumerate(found) for window in some]
    # Without special tokens two empty texts give a row without tokens, of which there is nothing to read.
    known = [number for number, ids in enumerate(wanted["input_ids"]) if ids]
    assert [row for row, _ in flat] == [wanted["overflow_to_sample_mapping"][number] for number in known]
    assert len(found[0]) > 2 and len(found[1]) > 2
    for number, (row, window) in zip(known, flat, strict=True):
        assert window["tokens"].tolist() == wanted["input_ids"][number]
        if "token_type_ids" in wanted:
            assert window["types"].tolist() == wanted["token_type_ids"][number]
        ids, parts = wanted["input_ids"][number], wanted.sequence_ids(number)
        null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
        assert null == (len(ids) - 1 if left else 0) and window["weights"][null] == 1
        for place, (part, span) in enumerate(zip(parts, wanted["offset_mapping"][number], strict=True)):
            inside = part == (0 if left else 1) and place != null
            assert window["offsets"][place].tolist() == (clusters(row, *span) if inside else [-1, -1])
            assert window["weights"][place] == (inside or place == null)


def field_targets(tokenizer, row, max_len, stride):
    """Start and end as transformers' example prepares them for training, window by window."""
    left = tokenizer.padding_side == "left"
    pair = (row["context"], row["question"]) if left else (row["question"], row["context"])
    made = tokenizer(
        *pair,
        truncation="only_first" if left else "only_second",
        max_length=max_len,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    begin = row["answers"]["answer_start"][0]
    end = begin + len(row["answers"]["text"][0])
    for number, ids in enumerate(made["input_ids"]):
        inside = [i for i, part in enumerate(made.sequence_ids(number)) if part == (0 if left else 1)]
        spans = made["offset_mapping"][number]
        null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
        if not inside or spans[inside[0]][0] > begin or spans[inside[-1]][1] < end:
            yield null, null
        else:
            yield max(i for i in inside if spans[i][0] <= begin), min(i for i in inside if spans[i][1] >= end)


def test_answers_are_where_the_example_of_transformers_puts_them(tokenizer):
    words = [(m.start(), m.end()) for m in re.finditer(r"\w+", CONTEXTS[0])]
    spans = [(words[i][0], words[min(i + n, len(words) - 1)][1]) for i in range(len(words)) for n in (0, 2)]
    rows = [asked(CONTEXTS[0], CONTEXTS[0][a:b], start=a) for a, b in spans]
    _, encoded = encoded_of(rows, tokenizer, 64, 24)
    wanted = [place for row in rows for place in field_targets(tokenizer, row, 64, 24)]
    found = [tuple(encoded[i]["targets"].argmax(0).tolist()) for i in range(len(encoded))]
    assert found == wanted and len({place for place in found if place != wanted[-1]}) > 30
    assert all(encoded[i]["targets"].sum() == 2 for i in range(len(encoded)))
    assert not encoded.report.faults  # each is whole in a window: it is shorter than what two share


def test_perfect_logits_give_every_answer_back(tokenizer):
    """Answers of several bytes, at the edges of text and windows; what is asked for is what is cut from the context."""
    words = [(m.start(), m.end()) for m in re.finditer(r"\S+", CONTEXTS[1])]
    rows = [asked(CONTEXTS[1], CONTEXTS[1][a:b], start=a) for a, b in words]
    rows += [asked(CONTEXTS[0], "the cat", start=0), asked(CONTEXTS[0], "is not!"), unanswered(CONTEXTS[0])]
    rows += [asked(" edge ", " edge ", start=0), unanswered("", "")]
    task, encoded = encoded_of(rows, tokenizer)
    assert not encoded.report.faults
    used = [encoded[i]["weights"] > 0 for i in range(len(encoded))]
    kept = {
        "index": np.concatenate([np.full(mask.sum(), i) for i, mask in enumerate(used)]),
        "logits": np.concatenate([10.0 * encoded[i]["targets"][mask] for i, mask in enumerate(used)]),
    }
    units = task.evaluate_predictions(kept, encoded, rows_of(rows))
    metrics, files = units.measure(np.arange(len(rows))), units.files
    assert units.rows.tolist() == list(range(len(rows)))
    assert metrics["exact_match"] == metrics["f1"] == metrics["NoAns_exact"] == metrics["HasAns_f1"] == 1
    assert metrics["HasAns_total"] == len(rows) - 2
    answers = list(files[".json"].values())
    if tokenizer.cls_token_id is not None or tokenizer.eos_token_id is not None:
        pieces = [text == CONTEXTS[1][a:b] for text, (a, b) in zip(answers, words, strict=False)]
        assert sum(pieces) > 0.6 * len(words)  # a piece may hold more than the word, as the space before it
    assert answers[-5:] == ["the cat", "is not!", "", "edge", ""]


def test_a_character_of_several_tokens():
    offsets = np.array([[-1, -1], [0, 1], [0, 1], [1, 2], [2, 3], [2, 3], [2, 3], [-1, -1]])
    assert place_of(offsets, 0, 1) == (1, 2) and place_of(offsets, 2, 3) == (4, 6) and place_of(offsets, 0, 3) == (1, 6)
    assert place_of(offsets[:5], 2, 3) == (4, 4) and place_of(offsets[5:], 0, 3) is None
    assert place_of(offsets[:1], 0, 1) is None and place_of(offsets, 2, 4) is None


def test_long_questions_are_cut(tokenizer):
    task, encoded = encoded_of([unanswered(CONTEXTS[0], "naïve " * 50), unanswered("short")], tokenizer)
    assert encoded.report.truncated == 1 and encoded.lengths.max() <= 40
    room = 40 - tokenizer.num_special_tokens_to_add(pair=True) - 8 - 1
    assert (encoded[0]["weights"] == 0).sum() <= room + tokenizer.num_special_tokens_to_add(pair=True)
    with pytest.raises(UserError, match="windows of 40 tokens that share 40 leave no tokens.*task.stride to a third"):
        QuestionAnswering(stride=40).prepare([], EncodingContext(tokenizer, 40))
    with pytest.raises(UserError, match="use Pad or Pack for config.batching"):
        QuestionAnswering().prepare([], EncodingContext(tokenizer, Chunk(length=8).max_example_length(384)))


def test_what_is_wrong_is_counted_shown_and_limited(bert_tokenizer):
    context = CONTEXTS[0]
    rows = [asked(context, "cat")] * 8 + [asked(context, "cat", start=5), asked(context, "cat", start=-1)]
    rows += [asked(context, context), {"question": "q", "context": "c", "answers": None}, asked("", "", start=0)]
    task, encoded = encoded_of(rows, bert_tokenizer)
    misplaced, lost = "an answer that is not where answer_start says", "an answer that no window holds"
    report = encoded.report
    assert report.dropped == {"no answers, not even an empty list": 1}
    assert report.faults == {misplaced: 2, lost: 1}
    assert report.fault_examples[misplaced] == [
        "row 9: at 5 stands 'at ', not 'cat'",
        "row 10: at -1 stands '', not 'cat'",
    ]
    shown = data_rows({"train": report.to_json()})
    assert [f"rows with {misplaced}", 2] in shown and ["their windows", len(encoded)] in shown
    assert f"1 with {lost} (row 11: {context[:20]!r}"[:-1] in str(report)
    # Nothing is learned of an answer that is misplaced; no window of an answer that is lost holds it.
    marks = [encoded[i]["targets"].sum() for i in range(len(encoded))]
    by_row = [{mark for mark, row in zip(marks, encoded.source, strict=True) if row == number} for number in range(13)]
    assert by_row == [{2}] * 8 + [{0}, {0}, {2}, set(), {2}]
    assert len(fault_problems(report, task.fault_limit)) == 2 and not fault_problems(report, 0.25)
    for bad in ("cat", {"text": ["cat"]}, {"text": ["cat"], "answer_start": []}, [{"text": "cat"}], {"text": [1]}):
        with pytest.raises(UserError, match=r"rows, row 1: column 'answers' holds .*, expected {'text': \[texts\]"):
            encoded_of([unanswered("a") | {"answers": bad}], bert_tokenizer)
    listed = [rows[0] | {"answers": [{"text": "cat", "answer_start": 4}]}]
    one, other = (encoded_of(given, bert_tokenizer)[1].flat["targets"] for given in (listed, rows[:1]))
    assert np.array_equal(one, other)
    wrong = QuestionAnswering(stride=-1, fault_limit=2.0, n_best_size=0, max_answer_length=0, max_query_length=0)
    assert len(problems_of(wrong)) == 5 and not problems_of(QuestionAnswering())


# --- loss ---


def xlnet(directory):
    """A model that reads context and question the other way round."""
    tokenizer = unigram()
    config = transformers.XLNetConfig(vocab_size=len(tokenizer), d_model=24, n_layer=2, n_head=3, d_inner=32)
    return save_perturbed(transformers.XLNetForQuestionAnsweringSimple(config), tokenizer, directory)


@pytest.mark.parametrize("family", ["bert", "xlnet"])
def test_loss_is_that_of_transformers_and_packing_changes_nothing(family, reader, tmp_path, one_device):
    directory = reader if family == "bert" else xlnet(tmp_path)
    ours = jaxft.load(str(directory))
    task, encoded = encoded_of(ROWS, ours.tokenizer)
    kinds = {"bert": transformers.BertForQuestionAnswering, "xlnet": transformers.XLNetForQuestionAnsweringSimple}
    theirs = kinds[family].from_pretrained(directory, attn_implementation="eager").eval()
    wanted = []
    for i in range(len(encoded)):  # one row at a time: transformers' softmax would run over padding
        row = {key: torch.tensor(encoded[i][key], dtype=torch.long)[None] for key in ("tokens", "types")}
        start, end = torch.tensor(encoded[i]["targets"]).argmax(0)[:, None]
        out = theirs(row["tokens"], token_type_ids=row["types"], start_positions=start, end_positions=end)
        wanted.append(out.loss.item())

    @jax.jit
    @jax.value_and_grad
    def mean(params, batch):
        pair = task.loss(bind(ours.model, params)(batch, None), batch)["loss"]
        return pair.total / pair.count

    found = {}
    for name, rows in {"padded": Pad(), "packed": Pack(length=64)}.items():
        batch = Batches(encoded, rows, len(encoded), 0, None, task.max_predictions, 1, 64, 0)[0]
        batch.pop("index")
        assert (batch["segments"].max() > 1) == (name == "packed")
        found[name] = mean(ours.params, batch)
        assert float(found[name][0]) == pytest.approx(np.mean(wanted), abs=1e-5)
    for one, other in zip(*(jax.tree.leaves(found[name][1]) for name in found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_shares_are_of_each_examples_own_tokens():
    rng = np.random.default_rng(0)
    logits = 50 * rng.standard_normal((2, 9, 2)).astype(np.float32)
    segments = np.array([[1, 1, 2, 2, 2, 3, 0, 0, 0], [1] * 9], np.int32)
    found = np.asarray(segment_log_softmax(jnp.array(logits), jnp.array(segments)))
    for row, begin, end in ((0, 0, 2), (0, 2, 5), (0, 5, 6), (1, 0, 9)):
        wanted = torch.log_softmax(torch.tensor(logits[row, begin:end]), 0)
        np.testing.assert_allclose(found[row, begin:end], wanted, rtol=1e-6, atol=1e-5)
    # A window of a misplaced answer counts for nothing.
    batch = {"targets": jnp.zeros((2, 9, 2), jnp.int32), "segments": jnp.array(segments)}
    pair = QuestionAnswering().loss(Outputs(None, jnp.array(logits)), batch)["loss"]
    assert (float(pair.total), float(pair.count)) == (0, 0)


# --- choice ---


@pytest.mark.parametrize("length", [1, 2, 7, 30])
@pytest.mark.parametrize("count", [1, 5, 500])
def test_best_spans_by_brute_force(length, count):
    rng = np.random.default_rng(length)
    for t in (1, 2, 9, 20):
        logits = rng.standard_normal((t, 2))
        every = [(logits[i, 0] + logits[j, 1], i, j) for i in range(t) for j in range(i, min(i + length, t))]
        assert best_spans(logits, count, length) == sorted(every, reverse=True)[:count]
    assert best_spans(np.zeros((0, 2)), 3, 3) == [] and best_spans(np.full((3, 2), np.nan), 3, 3) == []


def test_the_best_of_several_windows():
    rng = np.random.default_rng(1)
    context = " ".join(f"w{i:02}" for i in range(30))
    spans = np.array([[4 * i, 4 * i + 3] for i in range(30)])
    null = np.array([[-1, -1]])
    read = [(rng.standard_normal((13, 2)), np.concatenate([null, spans[a : a + 12]])) for a in (0, 6, 12, 18)]
    read.append((rng.standard_normal((13, 2)), np.concatenate([spans[12:24], null])))  # the token that says no is last
    best = collections.defaultdict(lambda: -np.inf)
    for logits, offsets in read:
        for i in range(13):
            for j in range(i, min(i + 5, 13)):
                if offsets[i, 0] >= 0 and offsets[j, 0] >= 0:
                    span = int(offsets[i, 0]), int(offsets[j, 1])
                    best[span] = max(best[span], logits[i, 0] + logits[j, 1])
    wanted = sorted(((score, *span) for span, score in best.items()), reverse=True)[:20]
    found = choose(read, context, 20, 5)
    assert found.candidates == wanted and choose(read[::-1], context, 20, 5) == found
    nothing = min(*(read[i][0][0].sum() for i in range(4)), read[4][0][12].sum())
    assert found.no_answer == pytest.approx(nothing - wanted[0][0], abs=1e-12)
    text = context[wanted[0][1] : wanted[0][2]]
    assert found.text(context, found.no_answer) == text and found.text(context, found.no_answer - 1e-9) == ""
    assert choose([(np.ones((1, 2)), null)], "", 20, 5).text("", 1e9) == ""


# --- scores ---

words = st.sampled_from(
    ["the", "a", "An", "THE", "cat", "Cat.", "cats", "über", "İ", "ß", "don't", "1,000", "“x”", "東京", "."]
)
texts = st.one_of(st.lists(words, max_size=5).map(" ".join), st.text(max_size=12))


def official(text):
    """Written down anew from the rules that SQuAD's page gives."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return [word for word in re.sub(r"\b(?:a|an|the)\b", " ", text).split() if word]


@settings(max_examples=300, deadline=None)
@given(texts, st.lists(texts, max_size=3))
def test_exact_match_and_f1(text, golds):
    meant = [official(gold) for gold in golds if official(gold)] or [[]]
    found = official(text)
    assert exact_match(text, golds) == float(any(found == gold for gold in meant))
    wanted = []
    for gold in meant:
        common = sum(min(found.count(word), gold.count(word)) for word in set(found))
        precision, recall = common / max(len(found), 1), common / max(len(gold), 1)
        both = 2 * precision * recall / (precision + recall) if common else 0.0
        wanted.append(both if found and gold else float(found == gold))
    assert f1(text, golds) == pytest.approx(max(wanted), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 0.25, 1]), st.sampled_from([0, 1]), st.integers(-3, 3)), min_size=1))
def test_the_threshold_by_brute_force(cases):
    answered, silent, odds = np.array(cases, float).T
    found, threshold = best_threshold(answered, silent, odds)
    means = [np.where(odds <= t, answered, silent).mean() for t in (-4, *range(-3, 4))]
    assert found == pytest.approx(max(means), abs=1e-12)
    assert np.where(odds <= threshold, answered, silent).mean() == pytest.approx(found, abs=1e-12)


def test_questions_without_answers_count():
    golds = [[], [], ["the cat"], ["the cat", "cat"]]
    odds = np.array([1.0, -1, -1, 1])
    scores = squad_scores(["x", "x", "A cat!", "cat"], golds, odds)
    found = squad_metrics(scores, 0.0)
    assert found["exact_match"] == found["HasAns_exact"] == found["NoAns_exact"] == found["NoAns_f1"] == 0.5
    assert (found["HasAns_total"], found["NoAns_total"], found["best_f1"]) == (2, 2, 0.5)
    assert found["best_f1_thresh"] < -1
    alone = squad_metrics(squad_scores(["dog", "black cat"], golds[2:], odds[2:]), np.inf)
    assert alone == {"exact_match": 0, "f1": pytest.approx(1 / 3)}
    assert "HasAns_f1" not in squad_metrics(squad_scores(["x"], [[]], np.zeros(1)), 0.0)
    twice = squad_metrics(squad_scores(["x", "cat", "cat"], [golds[1], golds[3], golds[3]], odds[[1, 3, 3]]), 0.0)
    assert squad_metrics(scores.take(np.array([1, 3, 3])), 0.0) == twice and twice["HasAns_total"] == 2


def test_a_part_is_judged_as_a_set_of_its_own(bert_tokenizer):
    """Any rows, some of them twice; also those whose windows lie far apart, and those without answers or text."""
    rng = np.random.default_rng(0)
    rows = [asked(CONTEXTS[0], word) for word in ("cat", "film", "sailors")]
    rows += [
        unanswered(""),
        asked(CONTEXTS[1], CONTEXTS[1][:4], start=0),
        unanswered(CONTEXTS[0]),
        unanswered(CONTEXTS[1]),
    ]
    rows += [{**asked(CONTEXTS[0], "the cat", start=0), "answers": None}]

    def judged(rows, logits):
        task, encoded = encoded_of(rows, bert_tokenizer, null_threshold=-6.7)
        used = [encoded[i]["weights"] > 0 for i in range(len(encoded))]
        given = [logits(rows[encoded.source[i]], encoded[i])[mask] for i, mask in enumerate(used)]
        index = np.concatenate([np.full(mask.sum(), i) for i, mask in enumerate(used)])
        return (
            task.evaluate_predictions({"index": index, "logits": np.concatenate(given)}, encoded, rows_of(rows)),
            task,
            encoded,
        )

    noise: dict = {}

    def logits(row, window):
        key = (row["context"], str(row["answers"]), window["tokens"].tobytes())
        return noise.setdefault(key, rng.standard_normal((len(window["tokens"]), 2)))

    whole, task, encoded = judged(rows, logits)
    assert len(whole.rows) == len(rows) - 1
    counts, wrong = whole.figures
    assert np.sum(counts["counts"]) == len(rows) - 1 and np.sum(counts["counts"], 1).tolist() == [4, 3]
    found = whole.measure(np.arange(len(whole.rows)))["f1"] * (len(rows) - 1)
    assert len(rows) - 1 - len(wrong["rows"]) + sum(row[3] for row in wrong["rows"]) == pytest.approx(found, abs=1e-5)
    for places in ([0], [1, 3, 3, 0], [*range(len(whole.rows))]):
        alone, _, _ = judged([dict(rows[whole.rows[place]], id=str(at)) for at, place in enumerate(places)], logits)
        assert whole.measure(np.array(places)) == alone.measure(np.arange(len(places)))
    detail = Breakdown(resamples=100, by="length")
    found = detail.compute(task, {}, encoded, detail.read(rows_of(rows), encoded), whole)
    low, high = found["interval"]["f1"]
    assert low <= whole.measure(np.arange(len(whole.rows)))["f1"] <= high and low < high
    assert [(line["slice"]["value"], line["rows"]) for line in found["lines"]] == [
        ("1-16 tokens", 1),
        ("33-64 tokens", 6),
    ]


# --- end to end ---


def nested(rows, v2):
    """A file as SQuAD is published, two questions a paragraph."""
    asked = [
        {"id": row["id"], "question": row["question"], "is_impossible": not row["answers"]["text"]}
        | {"answers": [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values(), strict=True)]}
        | ({"plausible_answers": []} if v2 else {})
        for row in rows
    ]
    paragraphs = [{"context": row["context"], "qas": [one]} for row, one in zip(rows, asked, strict=True)]
    return {
        "version": "1.1",
        "data": [{"title": "cats", "paragraphs": paragraphs}, {"title": "none", "paragraphs": []}],
    }


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_recipe_from_file_to_prediction(version, reader, tmp_path, one_device):
    long = " ".join(TEXTS)
    rows = [
        asked(long, "harbour"),
        asked(TEXTS[1], "great story"),
        asked(TEXTS[0], "the log"),
        asked(long, "20 and 30"),
    ]
    rows += [unanswered(TEXTS[2])] if version == "v2" else []
    rows = [{"id": f"q{number}"} | row for number, row in enumerate(rows)]
    (tmp_path / "train.json").write_text(json.dumps(nested(rows, version == "v2")))
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = Data(path=str(tmp_path / "train.json")).open()
    assert [row | {"title": "cats"} for row in rows] == list(read)
    flags = {
        "model": reader,
        "data.path": tmp_path / "train.json",
        "data.split": None,
        "evals.validation.data.split": None,
        "evals.validation.data.path": tmp_path / "dev.jsonl",
        "max_len": 48,
        "task.stride": 16,
        "batching.length": 48,
        "epochs": None,
        "steps": 2,
        "batch": 4,
        "mesh.data": 1,
        "log_every": 1,
    }
    line = [f"--config=configs/squad.py:{version}", *(f"--config.{name}={value}" for name, value in flags.items())]
    results = fit(parse(line, CONFIG).config, str(tmp_path / "run")).metrics["validation"]
    assert ("NoAns_f1" in results) == (version == "v2") and 0 <= results["exact_match"] <= results["f1"] <= 1
    predictions = tmp_path / "run/predictions"
    given = json.loads((predictions / "validation.json").read_text())
    assert given.keys() == {row["id"] for row in rows}
    assert all(given[row["id"]] in row["context"] for row in rows)
    assert (predictions / "validation.null_odds.json").exists() == (version == "v2")
    metrics = [json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"step", "split", "exact_match", "f1", "loss"} <= metrics[-1].keys() and metrics[-1]["step"] == 2
    before = (predictions / "validation.json").read_bytes()
    (predictions / "validation.json").unlink()
    assert evaluate_run(str(tmp_path / "run"), None)["validation"] == pytest.approx(results, abs=1e-6)
    assert (predictions / "validation.json").read_bytes() == before
    # So does the exported directory by itself.
    cfg = load_config(tmp_path / "run/config.json")
    elsewhere = evaluate_model(cfg, str(tmp_path / "run/model"), output=str(tmp_path / "a/b"))["validation"]
    assert elsewhere == pytest.approx(results, abs=1e-6)
    for file in predictions.iterdir():
        assert json.loads((tmp_path / "a/b/predictions" / file.name).read_bytes()) == pytest.approx(
            json.loads(file.read_bytes()), abs=1e-5
        )
    # Asked as a user would, the model cuts the same answers from the contexts.
    model = jaxft.load(str(tmp_path / "run/model"))
    answers = model.predict([(row["question"], row["context"]) for row in rows], batch=4)
    for row, answer in zip(rows, answers, strict=True):
        assert answer["answer"] == row["context"][answer["start"] : answer["end"]] and 0 < answer["score"] < 1
        assert answer["candidates"][0]["score"] == answer["score"] and len(answer["candidates"]) == 20
        assert sum(one["score"] for one in answer["candidates"]) < 1
    assert cfg.task == QuestionAnswering(stride=16)


def test_evaluation_does_not_depend_on_batches_or_padding(bert_tokenizer):
    """And its windows are each seen once: logits are made of the tokens, so that they are known."""
    task, encoded = encoded_of(ROWS, bert_tokenizer)
    table = np.random.default_rng(0).standard_normal((len(bert_tokenizer), 2)).astype(np.float32)

    @jax.jit
    def step(batch):
        out = Outputs(None, jnp.array(table)[batch["tokens"]])
        return task.loss(out, batch), task.eval_outputs(out, batch) | {key: batch[key] for key in ("weights", "index")}

    found = []
    for size in (3, 16):
        batches = EvalBatches(encoded, Pad(), size, 0, None, task.max_predictions, 1, 64, 0)
        evaluate_predictions = partial(task.evaluate_predictions, encoded=encoded, rows=rows_of(ROWS))
        found.append(evaluate(step, batches, lambda batch: batch, task, evaluate_predictions))
    assert found[1].numbers == pytest.approx(found[0].numbers, abs=1e-6)
    assert found[1].units.files == found[0].units.files
    assert list(found[0].units.files[".json"]) == [str(number) for number in range(len(ROWS))]


def test_pairs_are_asked_for(reader, one_device):
    model = jaxft.load(str(reader))
    with pytest.raises(UserError, match=r"row 2 holds 1 texts: .* reads pairs \(question, context\)"):
        model.predict([("who", "the cat"), ("who",)])
    empty, asked = model.predict([("who", ""), ("who", " the cat sat ")])
    assert (empty["answer"], empty["no_answer"], empty["candidates"]) == ("", None, [])
    assert asked["answer"] == asked["answer"].strip() != "" and model.predict([]) == []


def test_files_that_are_not_what_squad_has(tmp_path):
    good = nested([{"id": "1"} | asked("a cat", "cat")], False)
    cases = {
        ("paragraphs", 0, "qas"): r"article 1, paragraph 1: expected an object with a list 'qas'",
        ("paragraphs", 0, "context"): r"article 1, paragraph 1: expected an object with a text 'context'",
        ("paragraphs", 0, "qas", 0, "question"): r"paragraph 1, question 1: expected an object with a text 'question'",
        ("paragraphs", 0, "qas", 0, "answers", 0, "answer_start"): "expected answers with text and answer_start",
    }
    for (*way, last), message in cases.items():
        bad = json.loads(json.dumps(good))
        place = bad["data"][0]
        for key in way:
            place = place[key]
        place[last] = None
        (tmp_path / "bad.json").write_text(json.dumps(bad))
        with pytest.raises(UserError, match=message):
            Data(path=str(tmp_path / "bad.json")).open()
    bad["data"][0]["paragraphs"][0]["qas"][0].pop("answers")
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    assert Data(path=str(tmp_path / "bad.json")).open()[0]["answers"] is None


def test_ids_that_are_numbers_or_missing(tmp_path, caplog):
    """As in GermanQuAD, and in the files of annotation tools."""
    good = nested([{"id": 1} | asked("a cat", "cat")], False)
    (question,) = good["data"][0]["paragraphs"][0]["qas"]
    given = [51870, None, "", "7f", 1.5]
    good["data"][0]["paragraphs"][0]["qas"] = [question | {"id": one} for one in given] + [
        {key: value for key, value in question.items() if key != "id"}
    ]
    (tmp_path / "ids.json").write_text(json.dumps(good))
    with caplog.at_level("INFO", "jaxft"):
        rows = Data(path=str(tmp_path / "ids.json")).open()
    assert [row["id"] for row in rows] == ["51870", "1", "2", "7f", "1.5", "5"]
    assert "3 questions have no id and get their number in the file, from 0" in caplog.text
    assert ids_of(rows[:], "id") == ["51870", "1", "2", "7f", "1.5", "5"]
    assert ids_of([{"id": 3}, {"id": None}, {"id": ""}], "id") == ["3", "1", "2"]
    assert ids_of([{"id": 1}, {"id": None}], "id") == ["0", "1"] and "has the same id for several rows" in caplog.text
    assert ids_of([{}, {}], "id") == ids_of([{}, {}], None) == ["0", "1"]
    good["data"][0]["paragraphs"][0]["qas"] = [question | {"id": ["x"]}]
    (tmp_path / "bad.json").write_text(json.dumps(good))
    with pytest.raises(UserError, match=r"question 1: expected a text or a number for its id, found \['x'\]"):
        Data(path=str(tmp_path / "bad.json")).open()


GURU, HEART, CODER = "\u0917\u0941\u0930\u0941", "\u2764\ufe0f", "\U0001f469\u200d\U0001f4bb"


@pytest.mark.parametrize("text", [GURU, HEART, CODER, "cafe\u0301", "\u0e01\u0e33", "\U0001f1ee\U0001f1f3", "ok\u200b"])
@pytest.mark.parametrize("around", [("we saw ", ""), ("", " came"), ("the ", " sat")])
def test_marks_at_the_ends_of_answers(text, around):
    """Accents, vowel signs, variation selectors and joined emoji have no token of their own in BERT's tokenizer."""
    setting = EncodingContext(transformers.AutoTokenizer.from_pretrained(assets.path("tiny-encoder")), 32)
    context = text.join(around)
    start = len(around[0])
    row = {"question": "who?", "context": context, "answers": {"text": [text], "answer_start": [start]}}
    encoded = encode_all(rows_of([row]), partial(QuestionAnswering(stride=8).encode, setting=setting))
    assert not encoded.report.faults
    (window,) = encoded
    first, last = window["targets"].argmax(0)
    taught = context[window["offsets"][first, 0] : window["offsets"][last, 1]]
    assert taught == text.rstrip("\u200b")  # a space of no width belongs to no character
    real = window["offsets"][:, 0] >= 0
    logits = np.where(window["targets"] > 0, 9.0, 0.0)[real | (window["weights"] > 0)]
    offsets = window["offsets"][real | (window["weights"] > 0)]
    (best, *_) = choose([(logits, offsets)], context, 5, 30).candidates
    assert exact_match(context[best.start : best.end], [taught]) == 1.0 == f1(taught, [taught])


def test_only_what_has_no_token_is_left_out_of_an_answer():
    """The answer reaches beyond the last token, but not beyond the window."""
    setting = EncodingContext(transformers.AutoTokenizer.from_pretrained(assets.path("tiny-encoder")), 10)
    context = "a b c d e f g h"
    row = {"question": "who?", "context": context, "answers": {"text": [context], "answer_start": [0]}}
    encoded = encode_all(
        rows_of([row]), partial(QuestionAnswering(stride=2, max_query_length=2).encode, setting=setting)
    )
    assert list(encoded.report.faults) == [LOST]
