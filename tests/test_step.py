"""The training step: exact accumulation, clipping, skipping; frozen parameters; half precision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from conftest import model_of
from jax.extend.core import jaxprs_in_params
from steps import LABELS, built_of, random_batch, random_params

from jaxft.metrics import Mean
from jaxft.models.params import bind, names, shape, variables
from jaxft.optim.adamw import AdamW
from jaxft.optim.parameters import Parameter
from jaxft.optim.schedule import Linear
from jaxft.tasks.classify import Classify
from jaxft.tasks.lm import CausalLM
from jaxft.tasks.mlm import MaskedLM
from jaxft.training.compiled import compiled_steps
from jaxft.training.step import Gradient, TrainState, apply_gradient, batch_gradient, split_rows, train_step
from jaxft.tune.bitfit import Bitfit
from jaxft.tune.full import Full
from jaxft.tune.partial import Partial

# --- a toy: the loss of a row is the product of its `slope` with the parameter ---

KERNEL = {"w": Parameter("kernel", stacked=False)}


def toy_loss(params, batch, key):
    return {"loss": Mean.of(batch["slope"] @ params["w"] + params["w"].sum() * 0, batch["weights"])}


def toy_batch(slope, weights=None):
    slope = jnp.array(slope, jnp.float32)
    rows = slope.shape[0]
    weights = jnp.ones(rows) if weights is None else jnp.array(weights, jnp.float32)
    return {"slope": slope, "weights": weights, "segments": jnp.ones((rows, 2), jnp.int32)}


def toy(start, tx, schedule=lambda step: 1.0, micro_batches=1, loss=toy_loss, clip=None):
    """(state, jitted step)."""
    params = {"w": jnp.array(start, jnp.float32)}
    state = TrainState(jnp.int32(0), jnp.int32(0), params, tx.init(params))
    gradient = partial(batch_gradient, loss=loss, micro_batches=micro_batches, seed=0)
    update = partial(apply_gradient, tx=tx, schedule=schedule, clip=clip)
    return state, jax.jit(partial(train_step, gradient=gradient, update=update))


def same(one, two):
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), one, two))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_clipping_once_by_the_norm_of_the_whole(order):
    slopes = np.array([[3.0, 0.0], [0.0, 4.0]])[list(order)]
    state, step = toy([0.0, 0.0], optax.sgd(1.0), micro_batches=2, clip=1.0)
    state, metrics = step(state, {"frozen": jnp.full(9, 100.0)}, toy_batch(slopes))
    np.testing.assert_allclose(-state.params["w"], [0.6, 0.8], atol=1e-6)
    assert float(metrics.grad_norm) == pytest.approx(2.5, abs=1e-6)


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_is_that_of_pytorch(limit):
    """By the norm of all gradients together, of the mean; below the limit nothing changes, to the bit."""
    rng, count = np.random.default_rng(0), np.float32(8)
    sums = {name: rng.standard_normal(shape, np.float32) for name, shape in {"a": (3, 5), "b": (7,)}.items()}
    params = jax.tree.map(np.zeros_like, sums)
    tx, zero = optax.sgd(1.0), jnp.int32(0)
    gradient = Gradient(sums, {"loss": Mean(np.float32(1), count)}, zero)
    update = jax.jit(partial(apply_gradient, tx=tx, schedule=lambda step: 1.0, clip=limit))
    state, _ = update(TrainState(zero, zero, params, tx.init(params)), gradient)
    tensors = {name: torch.zeros(value.shape, requires_grad=True) for name, value in sums.items()}
    for name, tensor in tensors.items():
        tensor.grad = torch.tensor(sums[name] / count)
    torch.nn.utils.clip_grad_norm_(tensors.values(), limit)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(-state.params[name], tensor.grad.numpy(), rtol=1e-5, atol=1e-7)
        assert limit < 1 or np.array_equal(-state.params[name], sums[name] / count)


def test_loss_is_the_sum_over_the_sum():
    # Rows alternate between the two micro-batches: means 2.0 of 3 tokens and 1.0 of 7.
    slope = np.zeros((20, 1))
    weights = np.zeros(20)
    slope[0::2], weights[0:6:2] = 2.0, 1.0
    slope[1::2], weights[1:15:2] = 1.0, 1.0
    for micro_batches in (1, 2):
        state, step = toy([1.0], optax.sgd(0.1), micro_batches=micro_batches)
        state, metrics = step(state, {}, toy_batch(slope, weights))
        assert metrics.sums["loss"].value() == pytest.approx(1.3, abs=1e-6)
        assert float(metrics.sums["loss"].count) == 10
        assert float(state.params["w"][0]) == pytest.approx(1 - 0.1 * 1.3, abs=1e-6)
        assert int(metrics.tokens) == 40


def test_micro_batches_take_every_nth_row():
    pieces = split_rows(jnp.arange(24).reshape(12, 2), 3)
    assert pieces.shape == (3, 4, 2)
    assert np.array_equal(pieces[1], np.arange(24).reshape(12, 2)[1::3])


def test_rates_follow_updates_not_micro_batches():
    schedule = Linear(warmup=2).make(1e-3, 10)
    state, step = toy([0.0], optax.sgd(schedule), schedule, micro_batches=4)
    logged, used = [], []
    for _ in range(10):
        before = float(state.params["w"][0])
        state, metrics = step(state, {}, toy_batch(np.ones((4, 1))))
        logged.append(float(metrics.learning_rate))
        used.append(before - float(state.params["w"][0]))
    wanted = np.array([0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]) * 1e-3
    np.testing.assert_allclose(logged, wanted, atol=1e-9)
    np.testing.assert_allclose(used, wanted, atol=1e-8)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing(bad, micro_batches):
    schedule = Linear(warmup=2).make(1.0, 10)
    tx = AdamW().make(schedule, KERNEL)
    state, step = toy([1.0, 2.0], tx, schedule, micro_batches)
    state, _ = step(state, {}, toy_batch([[1.0, 2.0], [3.0, 4.0]]))
    after, metrics = step(state, {}, toy_batch([[1.0, bad], [1.0, 1.0]]))
    assert same((after.params, after.opt), (state.params, state.opt))
    assert not bool(metrics.finite) and not bool(metrics.good)
    assert (int(after.step), int(after.skipped)) == (2, 1)
    # The next update is number 1, by its own rate and by Optax's count.
    good = toy_batch([[1.0, 2.0], [3.0, 4.0]])
    state, metrics = step(after, {}, good)
    assert float(metrics.learning_rate) == 0.5 and (int(state.step), int(state.skipped)) == (3, 1)
    assert bool(metrics.finite) and bool(metrics.good) and not same(state.params, after.params)


def test_a_gradient_alone_can_be_not_finite():
    def loss(params, batch, key):
        return {"loss": Mean.of(jnp.sqrt(batch["slope"] @ params["w"]), batch["weights"])}

    state, step = toy([0.0], optax.sgd(1.0), loss=loss)
    after, metrics = step(state, {}, toy_batch([[1.0]]))
    assert np.isfinite(metrics.sums["loss"].value()) and not bool(metrics.finite)
    assert same(after.params, state.params) and int(after.skipped) == 1


def test_a_batch_without_anything_to_learn():
    tx = AdamW(decay=0.5).make(optax.constant_schedule(1.0), KERNEL)
    state, step = toy([1.0, 2.0], tx)
    after, metrics = step(state, {}, toy_batch([[1.0, 2.0], [3.0, 4.0]], [0, 0]))
    assert same((after.params, after.opt), (state.params, state.opt))
    assert float(metrics.sums["loss"].total) == float(metrics.sums["loss"].count) == 0
    assert bool(metrics.finite) and not bool(metrics.good) and int(after.skipped) == 1
    # Mixed: as if only the good row were there.
    mixed, metrics = step(state, {}, toy_batch([[1.0, 2.0], [3.0, 4.0]], [0, 1]))
    alone, alone_metrics = step(state, {}, toy_batch([[3.0, 4.0]]))
    assert same(mixed.params, alone.params)
    assert metrics.sums["loss"].value() == alone_metrics.sums["loss"].value() == 11


def test_small_updates_are_not_rounded_away():
    def half(params, batch, key):
        return toy_loss(
            {"w": params["w"].astype(jnp.bfloat16)}, jax.tree.map(lambda x: x.astype(jnp.bfloat16), batch), key
        )

    state, step = toy([2.0], optax.sgd(1e-3), loss=half)
    batch = toy_batch([[1.0]])
    for _ in range(200):
        state, _ = step(state, {}, batch)
    assert state.params["w"].dtype == jnp.float32
    assert float(state.params["w"][0]) == pytest.approx(1.8, abs=1e-4)


# --- models ---


def test_accumulation_and_update_are_those_of_pytorch(tiny_gpt2, one_device, tmp_path):
    """One step of SGD on rows with 3 and 7 targets, in one piece and in two."""
    batch = random_batch(2, 9, 120, True)
    batch["weights"] = np.array([[1] * 3 + [0] * 6, [1] * 7 + [0] * 2], np.float32)
    batch["segments"] = np.array([[1] * 4 + [0] * 5, [1] * 8 + [0]], np.int32)
    model = transformers.GPT2LMHeadModel.from_pretrained(tiny_gpt2, attn_implementation="eager").eval()
    labels = np.where(np.roll(batch["weights"], 1, 1) > 0, batch["tokens"], -100)
    tokens, mask = (torch.tensor(batch[name], dtype=torch.long) for name in ("tokens", "segments"))
    loss = model(tokens, attention_mask=mask, labels=torch.tensor(labels, dtype=torch.long)).loss
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.save_pretrained(tmp_path)
    built = built_of(tiny_gpt2, CausalLM())
    built.setting.tokenizer.save_pretrained(tmp_path)
    wanted, _, _ = built_of(tmp_path, CausalLM()).load()
    start, frozen, _ = built.load()
    assert not frozen
    for micro_batches in (1, 2):
        built.cfg.micro_batches = micro_batches
        plan = compiled_steps(built, 4)
        with jax.set_mesh(built.mesh):
            state, metrics = plan.step()(plan.initial_state(jax.tree.map(jnp.copy, start)), frozen, batch)
        assert metrics.sums["loss"].value() == pytest.approx(float(loss.detach()), abs=1e-5)
        assert float(metrics.sums["loss"].count) == 10
        assert float(metrics.grad_norm) == pytest.approx(float(norm), rel=1e-5)
        for path, value in wanted.items():
            np.testing.assert_allclose(state.params[path], value, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_empty_rows_have_no_say(families, family, dtype):
    model = model_of(families[family], "sequence-classification" if family == "bert" else "causal-lm", dtype=dtype)
    task = Classify(labels=LABELS) if family == "bert" else CausalLM()
    rng = np.random.default_rng(1)
    params = {path: jnp.array(rng.normal(0, 0.2, shape(v)), jnp.float32) for path, v in variables(model).items()}
    batch = random_batch(3, 8, 120, family != "bert")
    empty = {key: np.concatenate([value, np.zeros((5, *value.shape[1:]), value.dtype)]) for key, value in batch.items()}

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def mean(params, batch):
        pair = task.loss(bind(model, params)(batch, None), batch)["loss"]
        return pair.total / pair.count, pair.count

    (value, count), gradient = mean(params, empty)
    (value_alone, count_alone), gradient_alone = mean(params, batch)
    assert count == count_alone and np.isfinite(value)
    # bfloat16 sums over more rows are rounded elsewhere.
    tolerance = 1e-6 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(value, value_alone, atol=tolerance)
    for path in params:
        assert np.all(np.isfinite(gradient[path])), path
        np.testing.assert_allclose(gradient[path], gradient_alone[path], atol=tolerance, err_msg=path)


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_a_run_clips_as_its_configuration_says(tiny_bert, one_device, clip):
    """With SGD at the rate 1 the parameters move by the norm of the gradient, at most by the limit."""
    built = built_of(tiny_bert, Classify(), lr=1.0, clip=clip)
    trained, frozen = random_params(built)
    start, plan = jax.tree.map(np.array, trained), compiled_steps(built, 4)
    with jax.set_mesh(built.mesh):
        state, metrics = plan.step()(plan.initial_state(trained), frozen, random_batch(4, 8, 120, False))
    moved = float(optax.tree.norm(jax.tree.map(lambda a, b: np.float64(a) - b, state.params, start)))
    assert float(metrics.grad_norm) > 0.01
    assert moved == pytest.approx(clip or float(metrics.grad_norm), rel=1e-3)


def test_what_is_frozen_stays_and_costs_nothing(tiny_bert, one_device):
    built = built_of(
        tiny_bert, Classify(), tune=Partial(last_layers=1), optim=AdamW(decay=0.1), dtype="bfloat16", clip=1.0
    )
    trained, frozen, _ = built.load()
    made = random_params(built)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), (trained, frozen)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), made
    )
    assert {
        name.split(".")[1] for path in trained if path.startswith("layers.") for name in names(built.model, path)
    } == {"2"}
    count, rest = built.sizes()
    assert count == sum(x.size for x in trained.values()) and rest == sum(x.size for x in frozen.values())
    assert {x.dtype for x in trained.values()} == {jnp.dtype("float32")}
    assert {x.dtype for x in frozen.values()} == {jnp.dtype("bfloat16")}
    before, start = jax.tree.map(np.array, frozen), jax.tree.map(np.array, trained)
    plan = compiled_steps(built, 50)
    batch = random_batch(4, 8, 120, False)
    with jax.set_mesh(built.mesh):
        state, step = plan.initial_state(trained), plan.step()
        arrays = [x for x in jax.tree.leaves(state.opt) if x.ndim]
        assert sum(x.nbytes for x in arrays) == 2 * 4 * count
        for _ in range(50):
            state, metrics = step(state, frozen, batch)
    assert float(metrics.grad_norm) > 0 and state.params.keys() == start.keys()
    assert same(before, frozen)
    assert all(not np.array_equal(state.params[path], start[path]) for path in start)


def test_a_step_draws_anew():
    """From the seed and the number of the step alone."""

    def loss(params, batch, key):
        return {"loss": Mean(params["w"].sum() * 0 + jax.random.uniform(key), jnp.float32(1))}

    first, step = toy([0.0], optax.sgd(1.0), loss=loss)
    second, metrics = step(first, {}, toy_batch([[1.0]]))
    drawn = [float(m.sums["loss"].total) for m in (metrics, step(second, {}, toy_batch([[1.0]]))[1])]
    again = float(step(first, {}, toy_batch([[1.0]]))[1].sums["loss"].total)
    assert drawn[0] != drawn[1] and drawn[0] == again


def test_a_step_runs_what_was_compiled_in_the_memory_of_the_state(tiny_bert, one_device):
    built, compiled = built_of(tiny_bert, Classify()), []
    plan = compiled_steps(built, 3)
    trained, frozen, _ = built.load()

    def listen(event, seconds, **more):
        if "backend_compile" in event:
            compiled.append(more.get("fun_name"))

    with jax.set_mesh(built.mesh):
        jax.monitoring.register_event_duration_secs_listener(listen)
        state, batch = plan.initial_state(trained), built.put(random_batch(4, 8, 120, False))
        assert compiled == ["jit(init_fn)"]  # the optimizer's
        plan.compile(state, frozen, batch)
        compiled.clear()
        memory = addresses(state.params)
        after, _ = plan.step()(state, frozen, batch)
    assert compiled == []
    assert all(x.is_deleted() for x in jax.tree.leaves((state.params, state.opt)))
    assert addresses(after.params) == memory


def addresses(params) -> dict[str, int]:
    return {path: value.unsafe_buffer_pointer() for path, value in params.items()}


def products(function, *arguments):
    """How many matrix products a function runs, loops counted with their turns."""

    def count(jaxpr):
        total = 0
        for equation in jaxpr.eqns:
            total += equation.primitive.name == "dot_general"
            turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            total += turns * sum(count(inner) for inner in jaxprs_in_params(equation.params))
        return total

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_no_backward_pass_below_the_lowest_trained_layer(families, deep, family, one_device):
    def extra(directory, tune):
        """Products of loss and gradient beyond those of the loss."""
        task = Classify()
        built = built_of(directory, task, tune=tune)
        params = {p: jax.ShapeDtypeStruct(shape(v), jnp.float32) for p, v in variables(built.model).items()}
        trained = {path: params.pop(path) for path in built.trained}

        def loss(trained, frozen, batch):
            return built.loss({**trained, **frozen}, batch, None)["loss"].total

        batch = random_batch(2, 8, 100, False)
        forward = products(loss, trained, params, batch)
        return products(jax.value_and_grad(loss), trained, params, batch) - forward, forward

    shallow, shallow_forward = extra(families[family], Partial(last_layers=1))
    many, forward = extra(deep[family], Partial(last_layers=1))
    assert many == shallow and forward > 3 * shallow_forward
    everything, _ = extra(deep[family], Full())
    assert everything > 5 * many
    head, _ = extra(deep[family], Partial(train=("head",)))
    assert 0 < head < many and head <= 4  # the classifier's, and the pooler's in front of it
    two, _ = extra(deep[family], Partial(train=("head", "layers.10")))
    assert two < everything / 3


@pytest.mark.parametrize("tune", [Bitfit(), Partial(train=("head",)), Partial(freeze=("head", "layers"))])
def test_every_way_to_tune_has_a_gradient(tiny_bert, one_device, tune):
    built = built_of(tiny_bert, MaskedLM(), tune=tune, init="pretrained")
    trained, frozen = random_params(built)
    plan = compiled_steps(built, 4)
    batch = random_batch(2, 8, 120, True)
    with jax.set_mesh(built.mesh):
        state, metrics = plan.step()(plan.initial_state(jax.tree.map(jnp.copy, trained)), frozen, batch)
    assert float(metrics.grad_norm) > 0 and bool(metrics.good)
    assert all(not np.array_equal(state.params[path], trained[path]) for path in trained if "attn.k.bias" not in path)


def test_half_precision_moves_weights_as_single_precision_does(tiny_llama, one_device):
    moved = {}
    batch = random_batch(4, 16, 120, True)
    for dtype in ("float32", "bfloat16"):
        tune = Partial(train=("layers",))
        more = {"optim": AdamW(), "lr": 1e-5, "dtype": dtype, "tune": tune, "init": "pretrained"}
        built = built_of(tiny_llama, CausalLM(), **more)
        trained, frozen = random_params(built)
        start = jax.tree.map(np.array, trained)
        plan = compiled_steps(built, 20)
        with jax.set_mesh(built.mesh):
            state, step = plan.initial_state(trained), plan.step()
            assert {x.dtype for x in jax.tree.leaves(state.opt) if x.ndim} == {jnp.dtype("float32")}
            for _ in range(20):
                state, _ = step(state, frozen, batch)
        assert {x.dtype for x in state.params.values()} == {jnp.dtype("float32")}
        moved[dtype] = np.concatenate([np.ravel(state.params[path] - start[path]) for path in start])
        assert np.mean(moved[dtype] != 0) > 0.99
    one, two = moved.values()
    assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.99
