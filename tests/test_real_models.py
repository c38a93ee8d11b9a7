"""Two pretrained models, SmolLM2 (a Llama of 30 layers) and Whisper tiny.en: known answers, parity, save, training."""

import copy
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import jaxft
from jaxft.config import Config, Eval, Save
from jaxft.data import Data, Pad
from jaxft.inference.arguments import counted
from jaxft.models.params import bind, names, trainable
from jaxft.optim.schedule import Constant
from jaxft.parity_check.compare import compare
from jaxft.parity_check.inputs import make_inputs
from jaxft.tasks.lm import CausalLM
from jaxft.training.fit import fit

TEXTS = [
    "The harbour master counts the ships twice, at dawn and at dusk.",
    "Whoever finds the seventh key must give it back before winter begins.",
    "Two sailors shared a room above the bakery and never slept past four.",
    "No map of the island shows the well, though every child can find it.",
]
SAID = [" The seven sailors slept above the bakery.", " Two sailors lost the key last winter."]  # 11 tokens each
RATE = 16_000  # numbers of a sound in a second


@pytest.fixture(scope="module", autouse=True)
def single_device():
    """As `one_device`, for what the module's tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda *backend: 1)
        yield


@pytest.fixture(scope="module")
def llama(smollm2):
    return jaxft.load(str(smollm2))


@pytest.fixture(scope="module")
def hearer(whisper_tiny):
    return jaxft.load(str(whisper_tiny))


@pytest.fixture(params=["llama", "hearer"])
def loaded(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def folder():
    """A directory that is gone after the test: what these models leave takes gigabytes."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture(scope="module")
def sounds(whisper_tiny):
    """The spectra of silence and of noise, as Whisper's own preprocessing makes them: (2, bands, spectra)."""
    waves = np.random.default_rng(0).normal(0.0, [[0.0], [0.1]], (2, 3 * RATE)).astype(np.float32)
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(whisper_tiny)
    return extractor(list(waves), sampling_rate=RATE, return_tensors="np").input_features


@pytest.mark.slow
def test_smollm2_knows_a_capital(llama):
    ids = llama.tokenizer(["The capital of France is"])["input_ids"]
    assert llama.tokenizer.decode(llama(ids).logits[0, -1].argmax().item()) == " Paris"


@pytest.mark.slow
def test_whisper_hears_silence_and_knows_a_phrase(hearer, sounds):
    """Its first token of silence is the one for no speech."""
    start = hearer.tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|notimestamps|>"])
    said = hearer.tokenizer(" Ladies and", add_special_tokens=False)["input_ids"]
    logits = hearer(input_features=sounds[:1], decoder_input_ids=[[*start, *said]]).logits[0]
    assert hearer.tokenizer.convert_ids_to_tokens([logits[0].argmax().item()]) == ["<|nocaptions|>"]
    assert hearer.tokenizer.decode(logits[-1].argmax().item()) == " gentlemen"


@pytest.mark.slow
def test_parity_holds(loaded):
    """By these texts PyTorch's float32 comes nearer to float64 with SmolLM2 than by most, so that float64 decides."""
    checks = compare(loaded, make_inputs(loaded, []))
    assert all(check.holds for check in checks), [check for check in checks if not check.holds]
    assert len(checks) > 150 and {"logits", "loss"} <= {check.what for check in checks}


@pytest.mark.slow
def test_every_tensor_is_written_as_it_was(loaded, folder):
    loaded.save(folder / "saved")
    before, after = (load_file(path / "model.safetensors") for path in (loaded.pretrained.directory, folder / "saved"))
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert after[name].dtype == array.dtype and after[name].tobytes() == array.tobytes(), name


def theirs(directory) -> transformers.PreTrainedModel:
    """transformers' model of a directory, which holds all of its weights, in float32."""
    named = json.loads((Path(directory) / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, named).from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def near(found, expected: torch.Tensor):
    """Within 1e-4 of the largest."""
    expected = expected.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@torch.no_grad()
def loss_of_texts(model, ids: list[list[int]]) -> float:
    """transformers' loss of a token, over texts of different lengths."""
    losses = [model(torch.tensor([text]), labels=torch.tensor([text])).loss.item() for text in ids]
    return float(np.average(losses, weights=[len(text) - 1 for text in ids]))


@pytest.mark.slow
def test_smollm2_learns_texts(llama, folder):
    """Written in bfloat16, like the base: transformers finds the loss of the model card, and jaxft's logits."""
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    data = Data(path=str(folder / "texts.txt"))
    cfg = Config(
        model=str(llama.pretrained.directory),
        task=CausalLM(),
        data=data,
        evals={"val": Eval(data=data)},
        lr=1e-4,
        batch=4,
        steps=4,
        max_len=24,
        batching=Pad(buckets=(24,)),
        schedule=Constant(),
        log_every=1,
        save=Save(every=4),
    )
    trained = fit(cfg, str(folder / "run")).metrics["val"]["loss"]
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]  # every step's batch is all of the texts
    assert len(losses) == 4 and sorted(losses, reverse=True) == losses and trained < losses[0] / 2
    written, end = folder / "run" / "model", llama.tokenizer.eos_token_id
    ids = [[*text, end] for text in llama.tokenizer(TEXTS)["input_ids"]]
    assert loss_of_texts(theirs(cfg.model), ids) == pytest.approx(losses[0], rel=1e-4)
    model = theirs(written)
    found = loss_of_texts(model, ids)
    (row,) = [line for line in (written / "README.md").read_text().splitlines() if line.startswith("| `loss` |")]
    assert [float(cell) for cell in row.split("|")[2:4]] == pytest.approx([trained, found], abs=1e-3)
    assert found < losses[0] / 2
    with torch.no_grad():
        near(jaxft.load(str(written))(ids[:1]).logits, model(torch.tensor(ids[:1])).logits)


@pytest.mark.slow
def test_whisper_learns_what_was_said(hearer, whisper_tiny, sounds, folder):
    """No task reads sounds: these are steps of Optax on the model itself. It is written in float16, like the base."""
    ids = np.array(hearer.tokenizer(SAID)["input_ids"])
    read, said = ids[:, :-1], ids[:, 1:]
    whole, shown = np.ones((2, hearer.arch.spec.input_side.embed.length), np.int32), np.ones_like(read)
    batch = {"features": sounds, "segments": whole, "positions": counted(whole)}
    batch |= {"decoder_tokens": read, "decoder_segments": shown, "decoder_positions": counted(shown)}
    tx = optax.adam(1e-4)

    def loss(params):
        logits = bind(hearer.model, fixed | params)(batch).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, said).mean()

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    kept = set(trainable(hearer.model))
    fixed = {path: value for path, value in hearer.params.items() if kept.isdisjoint(names(hearer.model, path))}
    params = {path: value for path, value in hearer.params.items() if path not in fixed}
    assert list(fixed) == ["encoder.embed.positions.embedding"]
    losses, state = [], tx.init(params)
    with jax.set_mesh(hearer.mesh):
        for _ in range(3):
            params, state, value = step(params, state)
            losses.append(float(value))
    assert sorted(losses, reverse=True) == losses and losses[2] < losses[0] / 2
    trained = copy.copy(hearer)
    trained.params = fixed | params
    trained.save(folder / "trained")
    written = jaxft.load(str(folder / "trained"))
    for path, value in trained.params.items():
        np.testing.assert_array_equal(written.params[path], np.float16(value), err_msg=path)
    heard = {"input_features": torch.tensor(sounds), "labels": torch.tensor(said)}
    with torch.no_grad():
        before, after = (theirs(directory)(**heard) for directory in (whisper_tiny, folder / "trained"))
    assert before.loss.item() == pytest.approx(losses[0], rel=1e-4) and after.loss.item() < losses[0] / 2
    near(written(input_features=sounds, decoder_input_ids=read).logits, after.logits)
