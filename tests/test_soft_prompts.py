"""Prompt tuning and p-tuning: beside PEFT in logits, files and steps, whole runs, and what is wrong with a setting."""

import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import pytest
import torch
import transformers
from adapted import write
from prompted import batch_of, encoder_values, logits_of_peft, logits_of_texts, peft_model, prompted, texts_of
from runs import command, numbers, write_rows
from zoo import make

import jaxft
from jaxft.adapters.p_tuning import PTuning
from jaxft.adapters.peft_files import CONFIG
from jaxft.adapters.prompt_files import prompt_files
from jaxft.adapters.prompt_tuning import PromptTuning
from jaxft.adapters.soft_prompt import TASK_TYPES
from jaxft.adapters.virtual_tokens import VirtualTokens
from jaxft.config import Config, Eval, Mesh, Save
from jaxft.data import Data, Pack, Pad
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.params import bind
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.tasks.lm import CausalLM
from jaxft.training.fit import fit
from jaxft.training.run import start
from jaxft.training.saved_run import restore
from jaxft.training.setup import build

STEPS = 20
# Embeddings of another width, a factor on tokens and prompts, a factor on tokens only, positions from the mask.
MODELS = [
    ("bert", "sequence-classification"),
    ("bert", "token-classification"),
    ("albert", "question-answering"),
    ("llama", "causal-lm"),
    ("llama", "sequence-classification"),
    ("granite", "causal-lm"),
    ("gemma", "causal-lm"),
    ("t5", "seq2seq-lm"),
    ("bart", "seq2seq-lm"),
]
TUNES = {
    "table": PromptTuning(num_virtual_tokens=4),
    "MLP": PTuning(num_virtual_tokens=4, encoder_hidden_size=7),
    "LSTM": PTuning(num_virtual_tokens=4, encoder="LSTM", encoder_hidden_size=5, encoder_num_layers=3),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(family, head) -> the directory of a random model."""
    made = {}

    def directory(family, head):
        if (family, head) not in made:
            made[family, head] = tmp_path_factory.mktemp(family)
            make(family, head, made[family, head])
        return made[family, head]

    return directory


def theirs_of(directory):
    """The base in PyTorch."""
    name = json.loads((directory / "config.json").read_text())["architectures"][0]
    return getattr(transformers, name).from_pretrained(directory, attn_implementation="eager").eval()


def close(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        theirs = theirs.detach().numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize(("family", "head"), MODELS, ids=["-".join(one) for one in MODELS])
def test_files_for_peft(models, family, head, tmp_path, one_device):
    """Packed and padded rows of ours, and the same texts one by one in PEFT with our files, and in jaxft with them."""
    base, tune = models(family, head), TUNES["table"]
    one = prompted(base, tune)
    files = prompt_files(one.model, one.params, one.own, one.arch, tune, str(base))
    adapter = write(tmp_path / "adapter", files)
    texts = texts_of(one.arch)
    batch, places = batch_of(one.arch, tune.placed(one.arch), texts)
    logits = jax.jit(lambda params: bind(one.model, params)(batch).logits)(one.params)
    theirs = peft_model(theirs_of(base), adapter)
    with torch.no_grad():
        wanted = logits_of_peft(theirs, texts, batch)
    close(logits_of_texts(np.asarray(logits), one.arch, places), wanted)
    if head != "seq2seq-lm":
        loaded = jaxft.load(str(base), adapter=adapter)
        close(by_padding(loaded, texts), [w[-len(ids) :] for w, ids in zip(wanted, texts, strict=True)])


def by_padding(loaded, texts):
    """Our logits of texts in rows that are padded, on the left of every other text."""
    length = max(map(len, texts)) + 2
    ids, mask = np.zeros((2, len(texts), length), np.int32)
    places = [slice(length - len(text), length) if i % 2 else slice(0, len(text)) for i, text in enumerate(texts)]
    for row, (text, place) in enumerate(zip(texts, places, strict=True)):
        ids[row, place], mask[row, place] = text, 1
    logits = np.asarray(loaded(input_ids=ids, attention_mask=mask).logits)
    return [logits[row][None] if logits.ndim == 2 else logits[row, place] for row, place in enumerate(places)]


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_prompt_encoders_beside_peft(models, kind, tmp_path, one_device):
    """The encoder, its count of parameters, and its result in a file."""
    base, tune = models("llama", "causal-lm"), TUNES[kind]
    one = prompted(base, tune)
    theirs = new_peft(base, tune, "CAUSAL_LM")
    params = one.params | {path: jnp.asarray(array) for path, array in encoder_values(theirs).items()}
    assert params.keys() == one.params.keys()
    files = prompt_files(one.model, params, one.own, one.arch, tune, str(base))
    saved = theirs.get_prompt_embedding_to_save("default").numpy()
    np.testing.assert_allclose(files.tensors["prompt_embeddings"], saved, rtol=0, atol=1e-6)
    assert count(one) == trained_in(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    texts = texts_of(one.arch)
    ours = jaxft.load(str(base), adapter=str(tmp_path / "theirs"))
    with torch.no_grad():
        wanted = [w[-len(ids) :] for w, ids in zip(logits_of_peft(theirs, texts, {}), texts, strict=True)]
        close(by_padding(ours, texts), wanted)
        again = peft_model(theirs_of(base), write(tmp_path / "ours", files))
        close(
            by_padding(ours, texts),
            [w[-len(i) :] for w, i in zip(logits_of_peft(again, texts, {}), texts, strict=True)],
        )


def new_peft(base, tune, task):
    """A new model of PEFT with the same method."""
    kinds = {PromptTuning: peft.PromptTuningConfig, PTuning: peft.PromptEncoderConfig}
    more = {}
    if isinstance(tune, PTuning):
        more = {
            "encoder_reparameterization_type": tune.encoder,
            "encoder_hidden_size": tune.encoder_hidden_size,
            "encoder_num_layers": tune.encoder_num_layers,
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = kinds[type(tune)](task_type=task, num_virtual_tokens=tune.num_virtual_tokens, **more)
        return peft.get_peft_model(theirs_of(base), config).eval()


def count(one):
    return sum(one.params[path].size for path in one.trained)


def trained_in(theirs):
    return sum(p.numel() for p in theirs.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("family", "head", "task"), [("llama", "sequence-classification", "SEQ_CLS"), ("t5", "seq2seq-lm", "SEQ_2_SEQ_LM")]
)
def test_files_of_peft(models, family, head, task, tmp_path, one_device):
    """T5's have the rows of two sides, of which PEFT uses the first."""
    base, tune = models(family, head), TUNES["table"]
    theirs = new_peft(base, tune, TASK_TYPES[head])
    rows = theirs.prompt_encoder["default"].embedding.weight
    assert len(rows) == (8 if family == "t5" else 4)
    own = count(prompted(base, tune))
    assert own == trained_in(theirs) - (rows.numel() // 2 if family == "t5" else 0)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, ids = jaxft.load(str(base), adapter=str(tmp_path / "theirs")), np.arange(5, 25).reshape(2, 10)
    more = {"decoder_input_ids": ids[:, :6]} if family == "t5" else {}
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(ids), **{name: torch.tensor(x) for name, x in more.items()}).logits
    np.testing.assert_allclose(ours(input_ids=ids, **more).logits, wanted.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "head", "kind"), [("bert", "sequence-classification", "table"), ("llama", "causal-lm", "LSTM")]
)
def test_twenty_steps_beside_peft(models, family, head, kind, one_device):
    base, tune = models(family, head), TUNES[kind]
    theirs, one = new_peft(base, tune, TASK_TYPES[head]), prompted(base, tune, noise=0.0)
    one.params.update((path, jnp.asarray(array)) for path, array in encoder_values(theirs).items())
    if family == "bert":
        theirs.base_model.bert.pooler.requires_grad_(True)  # in jaxft it is a part of the head
    assert count(one) == trained_in(theirs)
    texts = texts_of(one.arch)
    batch, places = batch_of(one.arch, tune.placed(one.arch), texts)
    classes = [np.arange(len(ids)) % 5 if head == "causal-lm" else np.array([i]) for i, ids in enumerate(texts)]
    losses = our_losses(one, batch, places, classes)
    optimizer = torch.optim.AdamW((p for p in theirs.parameters() if p.requires_grad), lr=1e-2, weight_decay=0.01)
    wanted = []
    for _ in range(STEPS):
        logits = [w[-len(c) :] for w, c in zip(logits_of_peft(theirs, texts, batch), classes, strict=True)]
        loss = torch.nn.functional.cross_entropy(torch.cat(logits), torch.tensor(np.concatenate(classes)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-4)


def our_losses(one, batch, places, classes):
    """The losses of steps with AdamW on all that trains."""
    trained = {path: one.params[path] for path in one.trained}
    tx = optax.adamw(1e-2, weight_decay=0.01)

    def loss_of(trained):
        logits = bind(one.model, {**one.params, **trained})(batch).logits
        pieces = logits_of_texts(logits, one.arch, places)
        logs = jnp.concatenate([jax.nn.log_softmax(x[-len(c) :]) for x, c in zip(pieces, classes, strict=True)])
        return -jnp.mean(logs[np.arange(len(logs)), np.concatenate(classes)])

    @jax.jit
    def step(trained, state):
        loss, gradient = jax.value_and_grad(loss_of)(trained)
        updates, state = tx.update(gradient, state, trained)
        return optax.apply_updates(trained, updates), state, loss

    state, losses = tx.init(trained), []
    for _ in range(STEPS):
        trained, state, loss = step(trained, state)
        losses.append(float(loss))
    return losses


def test_places_of_virtual_tokens():
    first = VirtualTokens(2, 50, reads_first=True)
    example = {"tokens": np.array([5, 6, 7], np.int32), "types": np.array([0, 1, 1], np.int32)}
    made = first.in_example(example | {"at": np.array([0], np.int32), "targets": np.array([3], np.int32)})
    wanted = {"tokens": [50, 51, 5, 6, 7], "types": [0, 0, 0, 1, 1], "at": [0], "targets": [3]}
    assert {key: values.tolist() for key, values in made.items()} == wanted
    other = VirtualTokens(2, 50, reads_first=False)
    assert other.in_example(example | {"at": np.array([0, 2], np.int32)})["at"].tolist() == [2, 4]
    each = {"targets": np.array([6, 7, 0], np.int32), "weights": np.array([1, 1, 0], np.float32)}
    made = other.in_example(example | each)
    assert made["targets"].tolist() == [0, 0, 6, 7, 0] and made["weights"].tolist() == [0, 0, 1, 1, 0]
    decoder = {"decoder_tokens": np.array([9], np.int32), "targets": np.array([8], np.int32)}
    assert other.in_example(example | decoder)["targets"].tolist() == [8]


def test_first_values(models, tiny_bert, tmp_path):
    """Rows of the vocabulary, PEFT's rows of a text, or neither; the same for the same seed."""
    data = write_rows(tmp_path / "train.csv", 8)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    table = theirs.get_input_embeddings().weight.detach().numpy()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)

    def first(**how):
        built = build(configuration(tiny_bert, data, PromptTuning(num_virtual_tokens=9, **how)), ["train"])
        trained, _, _ = built.load()
        return np.asarray(trained["embed.tokens.virtual.source.embedding"])

    drawn = first()
    places = [np.flatnonzero((table == row).all(1)) for row in drawn]
    assert all(len(place) for place in places) and len({int(place[0]) for place in places}) > 5
    assert not set(np.concatenate(places)) & set(tokenizer.all_special_ids)
    assert np.array_equal(drawn, first())
    for text in ("the cat", "a good film with a good story and bad actors in the rain"):
        config = peft.PromptTuningConfig(
            task_type="SEQ_CLS",
            num_virtual_tokens=9,
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text=text,
            tokenizer_name_or_path=str(tiny_bert),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's own
            wanted = peft.get_peft_model(theirs, config).prompt_encoder["default"].embedding.weight
        assert np.array_equal(first(init="text", init_text=text), wanted.detach().numpy())
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    assert not np.isin(first(init="random"), table).any()


def configuration(model, data, tune, **more):
    settings = {"lr": 1e-2, "batch": 8, "steps": 6, "max_len": 24, "save": Save(every=3, keep=3), "log_every": 1}
    settings |= {"task": Classify(), "evals": {"val": Eval(data=Data(path=data))}} | more
    return Config(model=str(model), data=Data(path=data), tune=tune, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_bert):
    """A work directory, its configuration and what the run gave."""
    folder = tmp_path_factory.mktemp("prompt")
    data = write_rows(folder / "train.csv", 40)
    cfg = configuration(tiny_bert, data, PTuning(num_virtual_tokens=3), batching=Pad(buckets=(32,)))
    return cfg, folder / "run", fit(cfg, folder / "run")


def test_a_run_resumes_to_the_last_bit(run, tmp_path):
    cfg, workdir, _ = run
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "6")
    shutil.rmtree(tmp_path / "again" / "model")
    fit(cfg, tmp_path / "again")
    assert numbers(tmp_path / "again") == numbers(workdir)
    weights = [path / "model" / "adapter_model.safetensors" for path in (tmp_path / "again", workdir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_model_of_a_run_is_an_adapter(run, tmp_path):
    """PEFT, jaxft and its commands compute with it what the evaluation computed; the checkpoint holds the encoder."""
    cfg, workdir, made = run
    built = build(cfg, ["train"])
    _, state, _ = restore(built, str(workdir), 6)
    assert any(".virtual.source.mlp." in path for path in state.params)
    assert not any(".layers." in path for path in state.params)
    found = jaxft.load(cfg.model, adapter=str(workdir / "model"))
    rows = [line.rpartition(",") for line in Path(cfg.data.path).read_text().splitlines()[1:]]
    answers = found.predict([text for text, _, _ in rows])
    right = np.mean([answer["label"] == label for answer, (_, _, label) in zip(answers, rows, strict=True)])
    assert right == pytest.approx(made.metrics["val"]["accuracy"])
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(cfg.model, num_labels=3)
    ids = np.arange(5, 25).reshape(2, 10)
    with torch.no_grad():
        wanted = peft_model(theirs, str(workdir / "model"))(input_ids=torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(found(input_ids=ids).logits, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(made.model(input_ids=ids).logits, wanted, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="a soft prompt cannot be merged into the weights"):
        found.save(tmp_path / "saved")
    with pytest.raises(UserError, match="explain does not know soft prompts yet"):
        jaxft.explain(found, "the cat")


def test_commands(run, tmp_path):
    cfg, workdir, _ = run
    out = tmp_path / "answers.jsonl"
    done = command(
        "predict", f"--model={workdir / 'model'}", f"--input={cfg.data.path}", f"--output={out}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert {json.loads(line)["predicted_label"] for line in out.read_text().splitlines()} <= {"neg", "pos", "neu"}
    done = command("export", f"--workdir={workdir}", f"--output={tmp_path / 'adapter'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["peft_type"] == "P_TUNING"
    assert "PEFT's files hold the result of the prompt encoder (MLP), not its weights" in done.stderr
    done = command("export", f"--workdir={workdir}", f"--output={tmp_path / 'x'}", "--format=merged", cwd=tmp_path)
    assert done.returncode == 2 and "the prompt of PTuning cannot be merged into the weights" in done.stderr
    done = command("evaluate", f"--workdir={workdir}", f"--model={workdir / 'model'}", cwd=tmp_path)
    assert done.returncode == 2


def test_eight_devices_are_one(run, tmp_path, monkeypatch):
    """Sharded weights, recomputed layers, micro-batches: the same losses."""
    plain = dataclasses.replace(run[0], dropout=0.0)
    sharded = dataclasses.replace(plain, mesh=Mesh(data=2, fsdp=2, tensor=2), remat="full", micro_batches=2)
    fit(sharded, tmp_path / "eight")
    monkeypatch.setattr(jax, "device_count", lambda *backend: 1)
    fit(plain, tmp_path / "one")
    one, eight = ([row["loss"] for row in numbers(tmp_path / name)] for name in ("one", "eight"))
    np.testing.assert_allclose(one, eight, rtol=0, atol=2e-5)


def test_packed_language_models(tiny_gpt2, tmp_path, one_device):
    """The loss of a step of packed rows is that of padded rows, and PEFT's with the labels of the texts."""
    data = write_rows(tmp_path / "train.csv", 8)
    losses = {}
    for name, batching in {"pad": Pad(), "pack": Pack(length=64)}.items():
        tune = PromptTuning(num_virtual_tokens=3, init="random")
        built = build(configuration(tiny_gpt2, data, tune, task=CausalLM(), evals={}, batching=batching, steps=3))
        with jax.set_mesh(built.mesh):
            run = start(built, tmp_path / name)
            batch = built.put({key: values for key, values in run.batches[0].items() if key != "index"})
            total, weight = built.loss({**run.state.params, **run.frozen}, batch, None)["loss"]
            losses[name] = float(total / weight), float(weight)
            run.close()
    assert losses["pad"] == pytest.approx(losses["pack"], abs=1e-5)


WRONG = {
    "no text": ({"init": "text"}, "there is no text: set init_text"),
    "unused text": ({"init_text": "a"}, "init_text is set, but init is 'vocabulary'"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings(tiny_bert, tmp_path, fields, message):
    data = write_rows(tmp_path / "train.csv", 8)
    with pytest.raises(UserError) as error:
        build(configuration(tiny_bert, data, PromptTuning(**fields)))
    assert message in str(error.value)


LONG = {
    "prompt": ({"tune": PromptTuning(num_virtual_tokens=9999)}, "for the prompt and the text: set fewer"),
    "text": ({"max_len": 60, "tune": PromptTuning(num_virtual_tokens=10)}, "so that a text has at most 54"),
    "rows": ({"batching": Pad(buckets=(16,)), "tune": PromptTuning(num_virtual_tokens=16)}, "no text fits"),
    "layers": ({"tune": PTuning(encoder_num_layers=3)}, "encoder_num_layers is for encoder='LSTM'"),
}


@pytest.mark.parametrize(("more", "message"), LONG.values(), ids=LONG)
def test_prompts_that_do_not_fit(models, tmp_path, more, message):
    data = write_rows(tmp_path / "train.csv", 8)
    settings = {"tune": PromptTuning(), "init": "backbone"} | more
    with pytest.raises(UserError) as error:
        build(configuration(models("bert", "sequence-classification"), data, **settings))
    assert message in str(error.value)


REFUSED = {
    ("bart", "sequence-classification"): "head seq2seq-lm of an encoder-decoder model, not for sequence-classification",
    ("pegasus", "seq2seq-lm"): "transformers scales the vectors of token ids only",
    ("bert", "masked-lm"): "not for masked-lm: choose LoRA or Full",
}


@pytest.mark.parametrize(("family", "head"), REFUSED, ids=["-".join(one) for one in REFUSED])
def test_models_that_peft_does_not_prompt(models, family, head):
    pretrained = open_pretrained(str(models(family, head)))
    assert REFUSED[family, head] in " ".join(PromptTuning().refusals(architecture(pretrained), pretrained))


def test_an_adapter_of_another_model(models, tmp_path, one_device):
    base, tune = models("bert", "sequence-classification"), TUNES["table"]
    one = prompted(base, tune)
    files = prompt_files(one.model, one.params, one.own, one.arch, tune, str(base))
    adapter = write(tmp_path / "adapter", files)
    make("bert", "sequence-classification", tmp_path / "wide", hidden_size=30)
    with pytest.raises(UserError, match="does not fit the model: load it on the model that it was trained on"):
        jaxft.load(str(tmp_path / "wide"), adapter=adapter)
    with pytest.raises(UserError, match="which the model does not have"):
        jaxft.load(str(models("llama", "causal-lm")), head="causal-lm", adapter=adapter)
    config = files.config | {"num_virtual_tokens": 3}
    write(tmp_path / "damaged", files._replace(config=config))
    with pytest.raises(UserError, match="but num_virtual_tokens of adapter_config.json is 3: copy both files again"):
        jaxft.load(str(base), adapter=str(tmp_path / "damaged"))
