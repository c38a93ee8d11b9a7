"""Attributions beside PyTorch's: gradients through `inputs_embeds`, attention that it gives out, changed inputs."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
import transformers
from conftest import bert_config, save_perturbed
from zoo import make

import jaxft
from jaxft.attribution.gradients import slopes
from jaxft.problems import UserError

TEXT = "the unhappy cat sat on a great log!"
PAIR = ("the cat sat", "a bad film with good actors")
MASKED = "the cat [MASK] on the mat"
AUTO = {
    "sequence-classification": transformers.AutoModelForSequenceClassification,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "causal-lm": transformers.AutoModelForCausalLM,
    "token-classification": transformers.AutoModelForTokenClassification,
    "question-answering": transformers.AutoModelForQuestionAnswering,
    "multiple-choice": transformers.AutoModelForMultipleChoice,
}


@pytest.fixture(scope="module")
def models(tiny_classifier, tiny_bert, tiny_gpt2, tiny_llama):
    """Name -> (jaxft's model, transformers' in float64)."""
    directories = {"bert": tiny_bert, "gpt2": tiny_gpt2, "llama": tiny_llama}
    with pytest.MonkeyPatch.context() as patch:  # one device here, eight for the classifier
        patch.setattr(jax, "device_count", lambda *backend: 1)
        found = {name: both(directory) for name, directory in directories.items()}
    return found | {"classifier": both(tiny_classifier)}


def both(directory, **more):
    ours = jaxft.load(str(directory))
    theirs = AUTO[ours.arch.kind].from_pretrained(directory, attn_implementation="eager", **more)
    return ours, theirs.double().eval()


def encoded(model, text) -> dict:
    return dict(model.tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt"))


def score(theirs, inputs, places):
    """The sum of logits, each (token or None, class), of a single row or of each."""
    out = theirs(**inputs)
    if "start_logits" in out:
        (start, _), (end, _) = places
        return out.start_logits[:, start] + out.end_logits[:, end]
    return sum(out.logits[:, number] if at is None else out.logits[:, at, number] for at, number in places)


def slope(theirs, inputs, embeds, places):
    """Gradient of the score at embeddings (n, tokens, width)."""
    embeds = embeds.detach().requires_grad_()
    rest = {name: x.expand(len(embeds), -1) for name, x in inputs.items() if name != "input_ids"}
    (found,) = torch.autograd.grad(score(theirs, {"inputs_embeds": embeds, **rest}, places).sum(), embeds)
    return found


def integrated(theirs, inputs, blank, special, places, points=1000):
    """By the midpoint rule, in float64: (attributions, score of the text, score of the baseline)."""
    table = theirs.get_input_embeddings()
    ids = inputs["input_ids"]
    blanks = torch.where(torch.tensor(special)[None], ids, blank)
    end, start = table(ids).detach(), table(blanks).detach()
    total = torch.zeros_like(end[0])
    for part in torch.split((torch.arange(points, dtype=torch.float64) + 0.5) / points, 250):
        total += slope(theirs, inputs, start + part[:, None, None] * (end - start), places).sum(0)
    scores = [score(theirs, inputs | {"input_ids": x}, places).item() for x in (ids, blanks)]
    return (total / points * (end - start)[0]).sum(-1).numpy(), *scores


def close(found, wanted, tolerance=1e-4):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


# name, text, baseline, target, the class or vocabulary entry of the score, where it is read
CASES = [
    ("classifier", TEXT, "[MASK]", None, None, None),
    ("classifier", PAIR, "[PAD]", "neg", 0, None),
    ("bert", MASKED, "[MASK]", None, None, 3),
    ("gpt2", TEXT, "<|endoftext|>", None, None, -1),
    ("llama", TEXT, "</s>", None, None, -1),
]


def case(models, name, text, number, at):
    """jaxft's model, transformers', its inputs, the special tokens, the score's places."""
    ours, theirs = models[name]
    inputs = encoded(ours, text)
    special = [part is None for part in ours.tokenizer(*([text] if isinstance(text, str) else text)).sequence_ids()]
    logits = theirs(**inputs).logits[0]
    at = len(special) - 1 if at == -1 else at
    number = int((logits if at is None else logits[at]).argmax()) if number is None else number
    return ours, theirs, inputs, special, [(at, number)]


@pytest.mark.parametrize("name, text, baseline, target, number, at", CASES)
def test_integrated_gradients(models, name, text, baseline, target, number, at):
    ours, theirs, inputs, special, places = case(models, name, text, number, at)
    blank = ours.tokenizer.convert_tokens_to_ids(baseline)
    wanted, whole, less = integrated(theirs, inputs, blank, special, places)
    found = jaxft.explain(ours, text, target=target, baseline=baseline)
    close(found.attributions, wanted)
    assert found.attributions[special].tolist() == [0.0] * sum(special)
    np.testing.assert_allclose([found.score, found.baseline_score], [whole, less], atol=1e-5 * abs(whole))
    # Completeness: the sum is the difference of two scores that were computed without any embedding of its own.
    assert abs(found.gap) <= 1e-4 * abs(found.score - found.baseline_score)
    assert abs(whole - less - found.attributions.sum()) <= 1e-4 * abs(whole - less)


@pytest.mark.parametrize("name, text, baseline, target, number, at", CASES)
def test_input_x_gradient(models, name, text, baseline, target, number, at):
    ours, theirs, inputs, _, places = case(models, name, text, number, at)
    embeds = theirs.get_input_embeddings()(inputs["input_ids"])
    wanted = (slope(theirs, inputs, embeds, places)[0] * embeds[0]).sum(-1).detach().numpy()
    found = jaxft.explain(ours, text, "input-x-gradient", target)
    close(found.attributions, wanted)
    assert found.gap is None and found.baseline is None


@pytest.mark.parametrize("name, text, baseline, target, number, at", CASES)
def test_occlusion(models, name, text, baseline, target, number, at):
    ours, theirs, inputs, special, places = case(models, name, text, number, at)
    wanted = np.zeros(len(special))
    for place in np.flatnonzero(~np.array(special)):
        ids = inputs["input_ids"].clone()
        ids[0, place] = ours.tokenizer.convert_tokens_to_ids(baseline)
        wanted[place] = (score(theirs, inputs, places) - score(theirs, inputs | {"input_ids": ids}, places)).item()
    found = jaxft.explain(ours, text, "occlusion", target, baseline=baseline, batch=3)
    close(found.attributions, wanted)


def rolled(theirs, inputs) -> np.ndarray:
    """(tokens, tokens): the rollout of the attention that transformers gives out."""
    found = np.eye(inputs["input_ids"].shape[1])
    for layer in theirs(**inputs, output_attentions=True).attentions:
        mixed = 0.5 * layer[0].detach().double().mean(0).numpy() + 0.5 * np.eye(len(found))
        found = mixed / mixed.sum(-1, keepdims=True) @ found
    return found


@pytest.mark.parametrize("name, text, baseline, target, number, at", CASES)
def test_attention_rollout(models, name, text, baseline, target, number, at):
    ours, theirs, inputs, _, ((at, _),) = case(models, name, text, number, at)
    found = jaxft.explain(ours, text, "attention-rollout")
    close(found.attributions, rolled(theirs, inputs)[at or 0])
    assert found.attributions.sum() == pytest.approx(1, abs=1e-5)


# Attention of every kind: shared layers, distances, types, caps, windows, sinks, clipped values.
@pytest.mark.parametrize("family", "albert deberta_v2 modernbert xlnet gemma2 gpt_oss olmo bloom".split())
def test_rollout_of_families(family, tmp_path, one_device):
    encoder = family in ("albert", "deberta_v2", "modernbert", "xlnet")
    head = "sequence-classification" if encoder else "causal-lm"
    theirs, ours = make(family, head, tmp_path), jaxft.load(str(tmp_path))
    found = jaxft.explain(ours, TEXT, "attention-rollout")
    last = not encoder or family == "xlnet"
    close(found.attributions, rolled(theirs, encoded(ours, TEXT))[-1 if last else 0])


def test_a_head_that_reads_the_mean_of_all(tmp_path, one_device):
    """In float64 PyTorch: a norm right behind the embeddings leaves a slope along them that is mostly rounding."""
    theirs = make("modernbert", "sequence-classification", tmp_path, classifier_pooling="mean").double()
    ours = jaxft.load(str(tmp_path))
    found = jaxft.explain(ours, TEXT, "integrated-gradients", steps=64)
    inputs = encoded(ours, TEXT)
    special = [part is None for part in ours.tokenizer(TEXT).sequence_ids()]
    blank = ours.tokenizer.convert_tokens_to_ids(found.baseline)
    number = int(theirs(**inputs).logits.argmax())
    close(found.attributions, integrated(theirs, inputs, blank, special, [(None, number)])[0])
    with pytest.raises(UserError, match="this model's head reads the mean of all: use another method"):
        jaxft.explain(ours, TEXT, "attention-rollout")


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_decoder_that_reads_the_text_again(family, tmp_path, one_device):
    """Each token's embedding is read by both sides; PyTorch's is put in behind its tables."""
    start = {"t5": 0, "bart": 5}[family]
    more = {"eos_token_id": 1, "pad_token_id": 7, "decoder_start_token_id": start}
    theirs, ours = make(family, "sequence-classification", tmp_path, **more).double(), jaxft.load(str(tmp_path))
    end = ours.tokenizer.convert_ids_to_tokens(1)
    text = f"the cat sat {end}"
    inputs = encoded(ours, text)
    ids = inputs["input_ids"]
    keep = [part is None for part in ours.tokenizer(text).sequence_ids()]
    table = theirs.get_input_embeddings().weight.detach()
    blank, line = 9, {}
    scale = 24**0.5 if family == "bart" else 1.0  # which its table multiplies by

    def put(module, args, output):
        """What the encoder reads, then, one place later, the decoder."""
        x, line["calls"] = line["x"], line["calls"] + 1
        shifted = torch.cat([table[start].expand(len(x), 1, -1), x[:, :-1]], 1)
        return scale * (x if line["calls"] == 1 else shifted)

    tables = {
        m for m in theirs.modules() if isinstance(m, torch.nn.Embedding) and m.weight.data_ptr() == table.data_ptr()
    }
    handles = [module.register_forward_hook(put) for module in tables]
    number = int(ours.predict([text])[0]["label"].removeprefix("LABEL_"))
    blanks = torch.where(torch.tensor(keep)[None], ids, blank)
    begin, stop = table[blanks], table[ids]
    # T5's ReLU bends the line's slope in jumps, which a quadrature is slow to follow: the same points on both sides.
    points, weights = (torch.tensor(x) / 2 for x in np.polynomial.legendre.leggauss(40))
    line.update(x=(begin + (points + 0.5)[:, None, None] * (stop - begin)).requires_grad_(), calls=0)
    out = theirs(input_ids=ids.expand(40, -1)).logits[:, number] @ weights
    (found,) = torch.autograd.grad(out, line["x"])
    assert line["calls"] == 2
    for handle in handles:
        handle.remove()
    wanted = (found.sum(0) * (stop - begin)[0]).sum(-1).numpy()
    found = jaxft.explain(ours, text, baseline=ours.tokenizer.convert_ids_to_tokens(blank), steps=40)
    close(found.attributions, wanted)
    assert abs(found.gap) <= (0.1 if family == "t5" else 1e-4) * abs(found.score - found.baseline_score)
    with pytest.raises(UserError, match="attention-rollout follows one stack of layers"):
        jaxft.explain(ours, text, "attention-rollout")
    assert jaxft.explain(ours, text, "occlusion").attributions.any()


# --- scores of other heads ---


@pytest.fixture(scope="module")
def heads(tmp_path_factory, bert_tokenizer):
    """Head -> (jaxft's model, transformers')."""
    labels = {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}, "label2id": {"O": 0, "B-PER": 1, "I-PER": 2}}
    made = {
        "token-classification": transformers.BertForTokenClassification(bert_config(bert_tokenizer, **labels)),
        "question-answering": transformers.BertForQuestionAnswering(bert_config(bert_tokenizer)),
    }
    return {
        head: both(save_perturbed(model, bert_tokenizer, tmp_path_factory.mktemp(head))) for head, model in made.items()
    }


def test_the_tag_of_a_word(heads):
    ours, theirs = heads["token-classification"]
    inputs = encoded(ours, TEXT)
    tokens = ours.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    at = tokens.index("un") if "un" in tokens else next(i for i, t in enumerate(tokens) if t.startswith("un"))
    special = [part is None for part in ours.tokenizer(TEXT).sequence_ids()]
    wanted, whole, _ = integrated(theirs, inputs, ours.tokenizer.mask_token_id, special, [(at, 1)])
    found = jaxft.explain(ours, TEXT, word="unhappy", target="B-PER")
    close(found.attributions, wanted)
    assert found.target == "B-PER" and found.score == pytest.approx(whole, abs=1e-5)
    best = int(theirs(**inputs).logits[0, at].argmax())
    assert found.predicted == ["O", "B-PER", "I-PER"][best]
    with pytest.raises(UserError, match="word says which word's tag to explain: it is needed for token classification"):
        jaxft.explain(ours, TEXT)
    with pytest.raises(UserError, match="text 2: it has no word 'unhappy'"):
        jaxft.explain(ours, [TEXT, "a cat"], word="unhappy")


def test_the_best_answer(heads):
    ours, theirs = heads["question-answering"]
    inputs, question = encoded(ours, PAIR), ours.tokenizer(*PAIR)
    (answer,) = ours.predict([PAIR])
    found = jaxft.explain(ours, PAIR)
    assert found.predicted == found.target == answer["answer"] == PAIR[1][answer["start"] : answer["end"]]
    start = question.char_to_token(answer["start"], sequence_index=1)
    end = question.char_to_token(answer["end"] - 1, sequence_index=1)
    special = [part is None for part in question.sequence_ids()]
    places = [(start, 0), (end, 1)]
    wanted, whole, _ = integrated(theirs, inputs, ours.tokenizer.mask_token_id, special, places)
    close(found.attributions, wanted)
    assert found.score == pytest.approx(whole, abs=1e-5)
    two = jaxft.explain(ours, PAIR, "attention-rollout").attributions
    close(two, rolled(theirs, inputs)[[start, end]].mean(0))
    for texts, problem in (
        (PAIR[0], "a question-answering model reads pairs"),
        ((PAIR[0], ""), "the context is empty"),
        ((PAIR[0], "cat " * 80), "have 86 tokens, and explain reads 64: shorten the context"),
    ):
        with pytest.raises(UserError, match=f"text 1: .*{problem}"):
            jaxft.explain(ours, texts)
    with pytest.raises(UserError, match="it takes no target"):
        jaxft.explain(ours, PAIR, target="good")


def test_a_choice(tmp_path, bert_tokenizer, one_device):
    model = transformers.BertForMultipleChoice(bert_config(bert_tokenizer))
    ours, model = both(save_perturbed(model, bert_tokenizer, tmp_path))
    question, *some = texts = (PAIR[0], PAIR[1], "the dog sat on the log and on the mat", MASKED)
    each = ours.tokenizer([question] * 3, some, padding=True, return_tensors="pt")
    scores = model(**{name: array[None] for name, array in each.items()}).logits[0].tolist()
    best = int(np.argmax(scores))
    other = (best + 1) % 3
    (answer,) = ours.predict([texts])
    assert answer["choice"] == best
    for number, found in ((best, jaxft.explain(ours, texts)), (other, jaxft.explain(ours, texts, target=other))):
        pair = (question, some[number])
        inputs = {name: array[None] for name, array in encoded(ours, pair).items()}
        special = [part is None for part in ours.tokenizer(*pair).sequence_ids()]
        blanks = torch.where(torch.tensor(special)[None, None], inputs["input_ids"], ours.tokenizer.mask_token_id)
        less = model(**inputs | {"input_ids": blanks}).logits.item()
        assert (found.target, found.predicted, found.texts) == (f"choice {number}", f"choice {best}", pair)
        np.testing.assert_allclose([found.score, found.baseline_score], [scores[number], less], atol=1e-5)
        assert abs(scores[number] - less - found.attributions.sum()) <= 1e-4 * abs(scores[number] - less)
        looked = jaxft.explain(ours, texts, "attention-rollout", target=str(number)).attributions
        close(looked, rolled(model.bert, encoded(ours, pair))[0])
        lost = jaxft.explain(ours, texts, "occlusion", target=str(number)).attributions
        changed = inputs["input_ids"].clone()
        changed[0, 0, 2] = ours.tokenizer.mask_token_id
        assert lost[2] == pytest.approx(
            scores[number] - model(**inputs | {"input_ids": changed}).logits.item(), abs=1e-5
        )
    for target, problem in (
        ("3", "text 1: it has 3 choices, numbered from 0: there is no choice 3"),
        ("good", "target is 'good', expected the number of a choice, from 0"),
    ):
        with pytest.raises(UserError, match=problem):
            jaxft.explain(ours, texts, target=target)
    with pytest.raises(UserError, match="row 1 holds 2 texts: a multiple-choice model reads"):
        jaxft.explain(ours, PAIR)


def test_a_regression(tmp_path, bert_tokenizer, one_device):
    config = bert_config(bert_tokenizer, num_labels=1, problem_type="regression")
    model = transformers.BertForSequenceClassification(config)
    ours = jaxft.load(str(save_perturbed(model, bert_tokenizer, tmp_path)))
    (value,) = ours.predict([TEXT])
    found = jaxft.explain(ours, TEXT)
    assert found.target == "the value" and found.score == pytest.approx(value["value"], abs=1e-6)
    assert abs(found.gap) <= 1e-4 * abs(found.score - found.baseline_score)
    with pytest.raises(UserError, match="one value, which is explained: it takes no target"):
        jaxft.explain(ours, TEXT, target="LABEL_0")


# --- what is asked for ---


def test_what_comes_back(models):
    ours, _ = models["classifier"]
    found = jaxft.explain(ours, [TEXT, PAIR, ""], steps=5, batch=2)
    assert [one.predicted for one in found] == [answer["label"] for answer in ours.predict([TEXT, PAIR, ""])]
    for one in found:
        numbers = json.loads(json.dumps(one.numbers()))
        assert numbers["baseline"] == "[MASK]" and len(numbers["tokens"]) == len(one.tokens) == len(one.attributions)
        for token in numbers["tokens"]:
            inside = token["text"] is not None
            assert not inside or one.texts[token["text"]][token["start"] : token["end"]].lower() == token[
                "token"
            ].removeprefix("##")
            assert inside or (token["attribution"] == 0 and token["token"] in ("[CLS]", "[SEP]"))
    assert found[2].tokens == ["[CLS]", "[SEP]"] and found[2].gap == 0
    alone = jaxft.explain(ours, PAIR, steps=5)
    np.testing.assert_allclose(alone.attributions, found[1].attributions, atol=1e-6)


def test_more_points_come_nearer(models, caplog):
    ours, _ = models["llama"]
    gaps = [abs(jaxft.explain(ours, TEXT, steps=steps).gap) for steps in (1, 4, 16)]
    assert gaps[0] > 10 * gaps[1] > 100 * gaps[2] > 0 or gaps[2] < 1e-5
    assert "miss more than 5% of the score's difference" in caplog.text
    caplog.clear()
    jaxft.explain(ours, TEXT)
    assert caplog.text == ""


def test_points_come_in_batches(models):
    """The last of which is filled up, with points that must not count."""
    ours, _ = models["bert"]
    wanted = jaxft.explain(ours, MASKED, steps=20, batch=20).attributions
    for batch in (1, 3, 50):
        close(jaxft.explain(ours, MASKED, steps=20, batch=batch).attributions, wanted, 1e-5)


def test_texts_of_like_length_compile_once(models):
    ours, _ = models["classifier"]
    jaxft.explain(ours, TEXT, steps=4, batch=4)
    before = slopes._cache_size()
    jaxft.explain(ours, ["a cat", PAIR], steps=8, batch=4, target="pos")
    assert slopes._cache_size() == before


def test_the_token_of_a_language_model(models):
    ours, theirs = models["gpt2"]
    by_piece, by_name = (jaxft.explain(ours, "the cat", target=name, steps=4) for name in (" the", "Ġthe"))
    assert by_piece.target == by_name.target == "Ġthe"
    number = ours.tokenizer.convert_tokens_to_ids("Ġthe")
    assert by_name.score == pytest.approx(theirs(**encoded(ours, "the cat")).logits[0, -1, number].item(), abs=1e-5)
    with pytest.raises(UserError, match="which is not a single token of this model, but "):
        jaxft.explain(ours, "the cat", target="raining cats")


def test_in_bfloat16(tiny_classifier, models):
    ours, exact = jaxft.load(str(tiny_classifier), dtype="bfloat16"), models["classifier"][0]
    for method in ("integrated-gradients", "input-x-gradient", "occlusion", "attention-rollout"):
        found, wanted = (jaxft.explain(one, TEXT, method, "pos").attributions for one in (ours, exact))
        assert np.corrcoef(found, wanted)[0, 1] > 0.8, method  # of scores with three digits


def test_what_is_refused(models, tmp_path, one_device):
    classifier, bert, gpt2 = (models[name][0] for name in ("classifier", "bert", "gpt2"))
    with pytest.raises(UserError) as caught:
        jaxft.explain(classifier, TEXT, "integrated", target="posi", baseline="[MAKS]", steps=0, batch=0, word="a")
    assert len(caught.value.problems) == 6
    for words in (
        "steps is 0",
        "batch is 0",
        "Did you mean 'integrated-gradients'?",
        "neg, neu, pos",
        "Did you mean 'pos'?",
        "Did you mean '[MASK]'?",
        "word says which",
    ):
        assert words in str(caught.value)
    for model, text, problem in (
        ("runs/model", TEXT, "explain takes a model that jaxft.load returned, not str"),
        (classifier, [], "there is no text to explain"),
        (bert, [MASKED, TEXT, "a cat"], r"text 2: it has no \[MASK\]\n- text 3"),
        (gpt2, ["a cat", ""], "text 2: it is empty"),
        (jaxft.load(str(directory_of(bert)), head="none"), TEXT, "which score of a none model"),
    ):
        with pytest.raises(UserError, match=problem):
            jaxft.explain(model, text)
    make("vit", "image-classification", tmp_path / "vit")
    with pytest.raises(UserError, match="explain reads texts, but this model takes pixel_values"):
        jaxft.explain(jaxft.load(str(tmp_path / "vit")), TEXT)


def directory_of(model):
    return model.pretrained.directory


# --- the two things of one name ---

ORDERS = [
    "import jaxft\nassert jaxft.explain.__name__ == 'explain'\nimport jaxft.explain\n",
    "import jaxft.explain\n",
    "from jaxft import explain\nimport jaxft.explain\nassert jaxft.explain is explain\n",
    "import jaxft.explain\nimport jaxft.explain as again\nassert again is jaxft.explain\nfrom jaxft import explain\n",
]


@pytest.mark.parametrize("order", ORDERS)
def test_function_and_command_have_one_name(order):
    check = "import inspect\nassert list(inspect.signature(jaxft.explain).parameters)[:2] == ['model', 'text']\n"
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", order + check], check=True, env=environment)


def command(*flags, cwd):
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": os.getcwd()}
    line = [sys.executable, "-m", "jaxft.explain", *flags]
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=cwd)


def test_the_command(tiny_classifier, models, tmp_path):
    (tmp_path / "a.csv").write_text(f"one,two\n{PAIR[0]},{PAIR[1]}\na cat,a dog\nthe log,the mat\n")
    given = [f"--model={tiny_classifier}", "--input=a.csv", "--output=a.html"]
    done = command(*given, "--text=one", "--pair=two", "--limit=2", "--steps=7", "--numbers=a.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"rows": 2, "output": "a.html"} and "RuntimeWarning" not in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    wanted = jaxft.explain(models["classifier"][0], [PAIR, ("a cat", "a dog")], steps=7)
    for line, one in zip(lines, wanted, strict=True):
        close([token["attribution"] for token in line["tokens"]], one.attributions)
    assert "Integrated gradients" in (tmp_path / "a.html").read_text()
    done = command(*given, "--method=lime", "--text=one", cwd=tmp_path)
    assert done.returncode == 2 and "error: method is 'lime', expected integrated-gradients, " in done.stderr
    done = command(*given, cwd=tmp_path)
    assert done.returncode == 2 and "a.csv has no column 'text'" in done.stderr and "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.html", "a.jsonl"]
