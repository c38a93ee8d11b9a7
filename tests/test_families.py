"""Three families closer to the ground: padding as in PyTorch, twenty steps, variants, packing, single layers."""

import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import optax
import pytest
import torch
import transformers
from conftest import bert_config, byte_bpe, gpt2_config, llama_config, model_of, random_like, save_perturbed, wordpiece
from safetensors.numpy import load_file
from zoo import heads_of, make

import jaxft
from jaxft.metrics import Mean
from jaxft.models.layers.lm_loss import LazyLogits
from jaxft.models.model import Model
from jaxft.models.params import bind, names, shape, variables
from jaxft.optim.adamw import AdamW
from jaxft.optim.base import optimizer
from jaxft.optim.schedule import Linear
from jaxft.tasks.tokens import token_sums
from jaxft.training.step import TrainState, apply_gradient, batch_gradient, train_step

MAKE = {
    "bert": (bert_config, wordpiece),
    "gpt2": (gpt2_config, byte_bpe),
    "llama": (llama_config, lambda: byte_bpe(bos="<s>", eos="</s>")),
}
CLASSES = {
    ("bert", "none"): transformers.BertModel,
    ("bert", "sequence-classification"): transformers.BertForSequenceClassification,
    ("bert", "masked-lm"): transformers.BertForMaskedLM,
    ("gpt2", "none"): transformers.GPT2Model,
    ("gpt2", "sequence-classification"): transformers.GPT2ForSequenceClassification,
    ("gpt2", "causal-lm"): transformers.GPT2LMHeadModel,
    ("llama", "none"): transformers.LlamaModel,
    ("llama", "sequence-classification"): transformers.LlamaForSequenceClassification,
    ("llama", "causal-lm"): transformers.LlamaForCausalLM,
}
BASE = {"bert": "bert", "gpt2": "transformer", "llama": "model"}


@pytest.fixture(scope="module", autouse=True)
def single():
    """Load onto one device: smaller programs, quicker to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda *backend: 1)
        yield


@pytest.fixture(scope="module", params=CLASSES, ids="-".join)
def twins(request, tmp_path_factory):
    """(family, head, directory, PyTorch model, jaxft model) of the same perturbed random weights."""
    family, kind = request.param
    config, tokenizer = MAKE[family]
    directory = tmp_path_factory.mktemp("twins")
    options = {"num_labels": 5, "pad_token_id": 0, "attn_implementation": "eager"}
    theirs = CLASSES[request.param](config(tokenizer(), **options)).eval()
    save_perturbed(theirs, tokenizer(), directory)
    return family, kind, directory, theirs, jaxft.load(str(directory))


def inputs(vocabulary: int, rows=3, length=13, seed=0) -> dict[str, np.ndarray]:
    """Rows without padding, with padding on the right, and on the left."""
    rng = np.random.default_rng(seed)
    mask = np.ones((rows, length), np.int32)
    mask[1, 9:], mask[2, :4] = 0, 0
    ids = rng.integers(5, vocabulary, (rows, length)) * mask
    return {"input_ids": ids, "attention_mask": mask}


def positions(mask):
    return np.maximum(np.cumsum(mask, 1) - 1, 0)


def run_theirs(theirs, batch):
    """(hidden states after the last layer, logits or None) of a PyTorch model."""
    tensors = {name: torch.tensor(array).long() for name, array in batch.items()}
    tensors["position_ids"] = torch.tensor(positions(batch["attention_mask"])).long()
    out = theirs(**tensors, output_hidden_states=True)
    if "logits" not in out:
        return out.last_hidden_state, None
    hidden = out.hidden_states[-1]
    if not isinstance(theirs, transformers.BertForSequenceClassification):
        return hidden, out.logits
    # BERT's pooler in PyTorch reads position 0 even where that is padding; jaxft reads the first token.
    first = hidden[torch.arange(len(hidden)), batch["attention_mask"].argmax(1)]
    return hidden, theirs.classifier(theirs.bert.pooler(first[:, None]))


def check_outputs(theirs, kind, batch, out):
    """Hidden states and logits, wherever there is a token."""
    with torch.no_grad():
        hidden, logits = run_theirs(theirs, batch)
    real = batch["attention_mask"] > 0
    np.testing.assert_allclose(np.asarray(out.hidden)[real], hidden.numpy()[real], rtol=0, atol=1e-5)
    if kind == "none":
        assert out.logits is None and logits is None
        return
    of_texts = slice(None) if kind == "sequence-classification" else real
    assert out.logits.shape == logits.shape
    np.testing.assert_allclose(np.asarray(out.logits)[of_texts], logits.numpy()[of_texts], rtol=0, atol=1e-5)


def test_hidden_states_and_logits(twins):
    family, kind, _, theirs, ours = twins
    batch = inputs(theirs.config.vocab_size)
    if family == "bert":
        batch["token_type_ids"] = np.arange(39).reshape(3, 13) % 2
    check_outputs(theirs, kind, batch, ours(**batch))


def targets_of(kind, batch, rng):
    """(targets, weights) per head slot; for language models the tokens themselves, moved by the caller's choice."""
    if kind == "sequence-classification":
        return rng.integers(0, 5, len(batch["input_ids"])), np.ones(len(batch["input_ids"]))
    weights = batch["attention_mask"] * (rng.random(batch["input_ids"].shape) < 0.7)
    return rng.integers(0, 100, batch["input_ids"].shape), weights


def their_loss(theirs, kind, batch, targets, weights):
    _, logits = run_theirs(theirs, batch)
    logits = logits.reshape(-1, logits.shape[-1])
    errors = torch.nn.functional.cross_entropy(logits, torch.tensor(targets).reshape(-1), reduction="none")
    weights = torch.tensor(weights).reshape(-1)
    return (errors * weights).sum() / weights.sum()


def our_batch(model, kind, batch, targets, weights):
    mask = batch["attention_mask"]
    made = {"tokens": batch["input_ids"], "segments": mask, "positions": positions(mask), "targets": targets}
    made["weights"] = weights.astype(np.float32)
    if kind == "sequence-classification":
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
        made["at"] = (mask.argmax(1) if model.spec.pool_token == "first" else last)[:, None]
        made |= {"targets": targets[:, None], "weights": made["weights"][:, None]}
    return {name: np.asarray(array, np.float32 if name == "weights" else np.int32) for name, array in made.items()}


def with_empty_rows(batch, rows=5):
    """The batch with rows of nothing but padding below it, such as fill a static batch."""
    return {name: np.pad(array, [(0, rows), *[(0, 0)] * (array.ndim - 1)]) for name, array in batch.items()}


def our_loss(model):
    def loss(params, batch, key):
        out = bind(model, params)(batch, key)
        if isinstance(out.head_output, LazyLogits):
            return token_sums(out, batch)
        errors = optax.softmax_cross_entropy_with_integer_labels(out.logits, batch["targets"])
        return {"loss": Mean.of(errors, batch["weights"])}

    return loss


STEPS = 20


@pytest.mark.parametrize(
    "family, kind",
    [("bert", "sequence-classification"), ("bert", "masked-lm"), ("gpt2", "causal-lm"), ("llama", "causal-lm")],
)
def test_twenty_adamw_steps(family, kind, tmp_path):
    config, tokenizer = MAKE[family]
    theirs = CLASSES[family, kind](
        config(tokenizer(), num_labels=5, pad_token_id=0, attn_implementation="eager")
    ).eval()
    save_perturbed(theirs, tokenizer(), tmp_path)
    ours = jaxft.load(str(tmp_path))
    schedule = Linear(warmup=0.1).make(3e-3, STEPS)
    tx = optimizer(AdamW(decay=0.01), schedule, ours.model, list(variables(ours.model)), {})
    zero, params = np.int32(0), jax.device_get(ours.params)  # placed alike, so that one program serves every step
    state = TrainState(zero, zero, params, tx.init(params))
    loss = lambda params, batch, key: our_loss(ours.model)(params, batch, None)  # noqa: E731
    gradient = partial(batch_gradient, loss=loss, micro_batches=1, seed=0)
    update = partial(apply_gradient, tx=tx, schedule=schedule, clip=1.0)
    step = jax.jit(lambda state, batch: train_step(state, {}, batch, gradient=gradient, update=update))
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=3e-3, eps=1e-8)
    falling = transformers.get_linear_schedule_with_warmup(adamw, 2, STEPS)
    rng, worst = np.random.default_rng(2), 0.0
    for number in range(STEPS):
        batch = inputs(theirs.config.vocab_size, seed=number)
        targets, weights = targets_of(kind, batch, rng)
        adamw.zero_grad()
        expected = their_loss(theirs, kind, batch, targets, weights)
        expected.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()
        falling.step()
        state, metrics = step(state, our_batch(ours.model, kind, batch, targets, weights))
        worst = max(worst, abs(metrics.sums["loss"].value() - expected.item()))
    assert worst < 1e-4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_come_back_byte_equal(dtype, tmp_path):
    theirs = transformers.LlamaForCausalLM(llama_config(byte_bpe(bos="<s>"))).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path / "a")
    byte_bpe(bos="<s>").save_pretrained(tmp_path / "a")
    ours = jaxft.load(str(tmp_path / "a"))
    assert all(value.dtype == np.float32 for value in ours.params.values())
    ours.save(tmp_path / "b")
    ours.save(tmp_path / "c", dtype="float32")
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(a[name].tobytes() == b[name].tobytes() and a[name].dtype == b[name].dtype for name in a)
    assert all(array.dtype == np.float32 for array in c.values())
    dtypes = [json.loads((tmp_path / name / "config.json").read_text())["dtype"] for name in "abc"]
    assert dtypes == [dtype, dtype, "float32"]


LLAMAS = {
    "rope llama3": {},
    "tied": {"tie_word_embeddings": True},
    "head_dim": {"head_dim": 10},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "rope default": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "rope linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}},
    "no grouping": {"num_key_value_heads": 3},
}


@pytest.mark.parametrize("more", LLAMAS.values(), ids=LLAMAS)
def test_llama_variants_at_all_positions(more, tmp_path):
    config = llama_config(byte_bpe(bos="<s>"), attn_implementation="eager")
    for name, value in more.items():
        setattr(config, name, value)
    theirs = transformers.LlamaForCausalLM(config).eval()
    save_perturbed(theirs, byte_bpe(bos="<s>"), tmp_path / "a")
    ids = np.random.default_rng(0).integers(0, 100, (2, 128))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    ours = jaxft.load(str(tmp_path / "a"))
    found = np.asarray(ours(ids).logits)
    np.testing.assert_allclose(found[:, [0, 1, 100, 127]], expected[:, [0, 1, 100, 127]], rtol=0, atol=1e-5)
    assert ours.model.layers.parts[0].attn.head_dim == more.get("head_dim", 8)
    ours.save(tmp_path / "b")
    before, after = load_file(tmp_path / "a" / "model.safetensors"), load_file(tmp_path / "b" / "model.safetensors")
    assert before.keys() == after.keys() and all(
        after[name].tobytes() == array.tobytes() for name, array in before.items()
    )
    assert ("lm_head.weight" in after) == (not more.get("tie_word_embeddings", False))
    again, info = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.config.tie_word_embeddings == more.get("tie_word_embeddings", False)


@pytest.mark.parametrize("family", BASE)
def test_packed_texts_do_not_see_each_other(families, family):
    ours = jaxft.load(str(families[family]))
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(5, 100, 5), rng.integers(5, 100, 7), rng.integers(5, 100, 5)
    rows = [row_of(a, b, a), row_of(c, b, a), row_of(a), row_of(b)]
    rows = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    forward = jax.jit(lambda params, rows: bind(ours.model, params)(rows).logits)
    packed, changed, alone_a, alone_b = np.asarray(forward(ours.params, rows))
    for start, alone, length in ((0, alone_a, 5), (5, alone_b, 7), (12, alone_a, 5)):
        np.testing.assert_allclose(packed[start : start + length], alone[:length], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(packed[5:17], changed[5:17])
    assert np.abs(packed[:5] - changed[:5]).max() > 1e-2


def row_of(*texts, length=20) -> dict[str, np.ndarray]:
    """A row that holds these texts, one behind the other."""
    pieces = {
        "tokens": texts,
        "segments": [np.full(len(text), number + 1) for number, text in enumerate(texts)],
        "positions": [np.arange(len(text)) for text in texts],
    }
    joined = {name: np.concatenate(arrays) for name, arrays in pieces.items()}
    return {name: np.pad(array, (0, length - len(array))).astype(np.int32) for name, array in joined.items()}


# Of other kinds: layers that run twice, slopes, neighbours that turn and layers side by side, windows and bent scores,
# learned distances, experts, decoders that read their encoder's text again.
LAST = [(family, kind) for family in BASE for kind in ("sequence-classification", "lm")]
LAST += [
    (family, "lm") for family in ("albert", "bloom", "deberta_v2", "gemma2", "gpt_neox", "gptj", "mpnet", "mixtral")
]
LAST += [(family, "sequence-classification") for family in ("mbart", "umt5")]


@pytest.mark.parametrize("family, kind", LAST, ids=map("-".join, LAST))
def test_the_last_layer_only_where_the_head_reads(family, kind, tmp_path):
    """Loss and gradients are those of the model that computes its last layer everywhere."""
    kind = kind if kind != "lm" else "masked-lm" if "masked-lm" in heads_of(family) else "causal-lm"
    make(family, kind, tmp_path)
    rng = np.random.default_rng(4)
    lengths = [[5, 7], [4, 4, 5]]
    rows = [row_of(*(rng.integers(5, 100, length) for length in row), length=13) for row in lengths]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    batch["at"] = np.array([[4, 11, 0, 7], [12, 2, 9, 9]], np.int32)
    batch["targets"], batch["weights"] = rng.integers(0, 3, (2, 4)), np.array([[1, 1, 0, 1], [1, 2, 1, 1]], np.float32)
    models = [model_of(tmp_path, kind, hidden=hidden) for hidden in ("all", "read")]
    assert models[1].layers.plan[-1].repeats == models[1].layers.plan[-1].period == 1
    values = random_like(shapes_by_name(models[0]), scale=0.3)
    results = []
    for model in models:
        stacked = {
            path: np.stack([values[name] for name in names(model, path)])
            if "layers.segments." in path
            else values[path]
            for path in variables(model)
        }
        loss, grads = jax.jit(jax.value_and_grad(lambda p, m=model: our_loss(m)(p, batch, None)["loss"].total))(stacked)
        by_name = {}
        for path, grad in grads.items():
            rows = grad if "layers.segments." in path else grad[None]
            by_name |= dict(zip(names(model, path), np.asarray(rows), strict=True))
        results.append((loss, by_name))
    (loss_all, all_), (loss_read, read) = results
    assert float(loss_read) == pytest.approx(float(loss_all), rel=1e-6) and all_.keys() == read.keys()
    for name, grad in all_.items():
        np.testing.assert_allclose(read[name], grad, rtol=0, atol=1e-5 * max(1, np.abs(grad).max()), err_msg=name)


def shapes_by_name(model) -> dict[str, tuple[int, ...]]:
    return {
        name: shape(variable)[1:] if "layers.segments." in path else shape(variable)
        for path, variable in variables(model).items()
        for name in names(model, path)
    }


@pytest.mark.parametrize("family", BASE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_empty_rows_change_nothing(families, family, dtype):
    """Of five more rows it does not matter whether they are padding or, with weight 0, text."""
    model = model_of(families[family], dtype=dtype)
    params = random_like({path: shape(variable) for path, variable in variables(model).items()}, scale=0.3)
    batch = inputs(100, rows=8)
    targets, weights = targets_of("lm", batch, np.random.default_rng(3))
    weights[3:] = 0
    text = our_batch(model, "lm", batch, targets, weights)
    empty = with_empty_rows({name: array[:3] for name, array in text.items()})

    def loss(params, batch):
        return our_loss(model)(params, batch, None)["loss"].total

    gradient = jax.jit(jax.value_and_grad(loss))
    expected, found = gradient(params, text), gradient(params, empty)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(b, a)  # one program ran both, and zeros were added


@pytest.mark.slow
def test_real_weights(minilm):
    """MiniLM's hidden states of real sentences, padded together."""
    theirs = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = ["A man is eating food.", "The stock market crashed today, and nobody knew why.", "Hello"]
    batch = {name: np.array(rows) for name, rows in tokenizer(texts, padding=True).items()}
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(array) for name, array in batch.items()}).last_hidden_state.numpy()
    found = np.asarray(jaxft.load(str(minilm))(**batch).hidden)
    real = batch["attention_mask"] > 0
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("place, last", [("attn_out", "attn.o"), ("mlp_out", "mlp.down")])
def test_where_dropout_falls(tiny_bert, place, last):
    """On the output of the sublayers that `dropout_places` names: of one that gives zeros nothing is to be seen."""
    spec = model_of(tiny_bert).spec
    layer = spec.layers[0]
    layer = replace(layer, attn=replace(layer.attn, dropout=0.0), dropout=0.5, dropout_places=frozenset([place]))
    model = Model(replace(spec, embed=replace(spec.embed, dropout=0.0), layers=(layer,) * 3))
    params = random_like({path: shape(variable) for path, variable in variables(model).items()}, scale=0.3)
    batch = {name: array[None] for name, array in row_of(np.arange(5, 18), length=13).items()}
    hidden = jax.jit(lambda params, key: bind(model, params)(batch, key).hidden)
    assert np.abs(hidden(params, jax.random.key(0)) - hidden(params, None)).max() > 0.1
    silent = {path: array * (f".{last}." not in path) for path, array in params.items()}
    np.testing.assert_array_equal(hidden(silent, jax.random.key(0)), hidden(silent, None))
