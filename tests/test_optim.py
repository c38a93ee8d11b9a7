"""Optimizers and schedules: against PyTorch, transformers and formulas; what decays; rates by layer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from conftest import model_of, random_like
from optax.contrib import muon
from zoo import make

from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.model import Model
from jaxft.models.params import all_names, names, shape, variables
from jaxft.optim.adafactor import Adafactor
from jaxft.optim.adamw import AdamW
from jaxft.optim.adamw8bit import AdamW8bit
from jaxft.optim.base import lr_multipliers, optimizer
from jaxft.optim.lion import Lion
from jaxft.optim.muon import Muon
from jaxft.optim.parameters import Parameter
from jaxft.optim.schedule import WSD, Constant, Cosine, InverseSqrt, Linear
from jaxft.optim.sgd import SGD
from jaxft.problems import UserError

EVERY = [AdamW(decay=0.1), SGD(decay=0.1), SGD(decay=0.1, momentum=0.9), Lion(decay=0.1), Adafactor(decay=0.1)]
EVERY += [Muon(decay=0.1), AdamW8bit(decay=0.1)]


def rates(schedule, lr, total, count=None):
    made = schedule.make(lr, total)
    return np.array([float(made(t)) for t in range(count or total)])


def rates_by(make, total, **arguments):
    """What a scheduler of transformers gives to the updates of a run with the peak 1."""
    optim = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, found = make(optim, **arguments), []
    for _ in range(total):
        found.append(optim.param_groups[0]["lr"])
        optim.step()
        scheduler.step()
    return found


def test_linear_list():
    wanted = [0, 0.5e-3, 1e-3, 0.875e-3, 0.75e-3, 0.625e-3, 0.5e-3, 0.375e-3, 0.25e-3, 0.125e-3]
    for warmup in (2, 0.2):
        assert rates(Linear(warmup=warmup), 1e-3, 10) == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("warmup", [0, 1, 5, 0.1, 0.33])
def test_schedules_of_transformers(warmup):
    total = 40
    warm = int(warmup) if warmup >= 1 else math.ceil(total * warmup)
    shared = {"num_warmup_steps": warm}
    pairs = [
        (Linear(warmup=warmup), transformers.get_linear_schedule_with_warmup, {"num_training_steps": total}),
        (Cosine(warmup=warmup), transformers.get_cosine_schedule_with_warmup, {"num_training_steps": total}),
        (Constant(warmup=warmup), transformers.get_constant_schedule_with_warmup, {}),
    ]
    if warm:
        pairs.append((InverseSqrt(warmup=warmup), transformers.get_inverse_sqrt_schedule, {}))
    for ours, theirs, more in pairs:
        assert rates(ours, 1.0, total) == pytest.approx(rates_by(theirs, total, **shared, **more), abs=1e-6), ours


def test_wsd():
    arguments = {"num_warmup_steps": 4, "num_decay_steps": 10, "num_stable_steps": 26, "decay_type": "linear"}
    wanted = rates_by(transformers.get_wsd_schedule, 40, **arguments)
    for made in (WSD(warmup=4, decay=10), WSD(warmup=0.1, decay=0.25)):
        assert rates(made, 1.0, 40) == pytest.approx(wanted, abs=1e-6)
    # Theirs also warms up from the lowest rate.
    wanted = rates_by(transformers.get_wsd_schedule, 40, **arguments, min_lr_ratio=0.2)
    assert rates(WSD(warmup=4, decay=10, end=0.2), 1.0, 40)[4:] == pytest.approx(wanted[4:], abs=1e-6)
    by_hand = [0, 0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0.0]
    assert rates(WSD(warmup=2, decay=4), 1.0, 12, 12) == pytest.approx([*by_hand[:7], 1, *by_hand[7:11]], abs=1e-6)


def test_formulas():
    def cosine(t):
        return t / 3 if t < 3 else 0.1 + 0.9 * (1 + math.cos(math.pi * (t - 3) / 7)) / 2

    assert rates(Cosine(warmup=3, end=0.1), 1.0, 10, 11) == pytest.approx([cosine(t) for t in range(11)], abs=1e-6)

    def root(t):
        return t / 4 if t < 4 else math.sqrt(4 / t)

    assert rates(InverseSqrt(warmup=4), 1.0, 20) == pytest.approx([root(t) for t in range(20)], abs=1e-6)
    assert rates(Linear(warmup=0, end=0.5), 2.0, 4, 6) == pytest.approx([2, 1.75, 1.5, 1.25, 1, 1], abs=1e-6)
    assert rates(Constant(), 0.3, 3) == pytest.approx([0.3] * 3)


@pytest.mark.parametrize(
    "schedule", [Linear(), Cosine(), Constant(warmup=5), InverseSqrt(), WSD(), WSD(decay=9, warmup=9)]
)
@pytest.mark.parametrize("total", [1, 2, 3])
def test_very_short_runs_have_finite_rates(schedule, total):
    found = rates(schedule, 1.0, total, total + 3)
    assert np.all(np.isfinite(found)) and found.min() >= 0 and found.max() <= 1


# --- rules ---

SHAPES = {
    "embed.tokens.embedding": (13, 6),
    "layers.0.0.attn.q.kernel": (3, 6, 9),
    "layers.0.0.attn.q.bias": (3, 9),
    "layers.0.0.norms.attn_in.scale": (3, 6),
    "head.out.kernel": (6, 4),
    "head.out.bias": (4,),
}


def known(paths) -> dict[str, Parameter]:
    """What a model would say of these paths."""
    roles = {path: path.rpartition(".")[2].replace("scale", "norm") for path in paths}
    return {path: Parameter(role, path.startswith("layers.")) for path, role in roles.items()}


def updates_of(optim, lr=0.01, steps=3, seed=0, only=tuple(SHAPES)):
    """Parameters after each of some steps with random gradients, and those gradients."""
    shapes = {path: SHAPES[path] for path in only}
    params = {path: jnp.array(value) for path, value in random_like(shapes).items()}
    tx = optim.make(optax.constant_schedule(lr), known(shapes))
    history, gradients, state = [params], [], tx.init(params)
    update = jax.jit(tx.update)
    for step in range(steps):
        gradients.append({path: jnp.array(value) for path, value in random_like(shapes, seed + step + 1).items()})
        updates, state = update(gradients[-1], state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history, gradients, state


def by_torch(make, history, gradients, rows=False):
    """The last parameters by an optimizer of PyTorch; with `rows` each layer of a stacked array is a parameter."""
    final = {}
    for path, start in history[0].items():
        starts = list(start) if rows and path.startswith("layers.") else [start]
        ends = []
        for row, value in enumerate(starts):
            parameter = torch.tensor(np.array(value), requires_grad=True)
            optim = make([parameter], path)
            for gradient in gradients:
                gradient = gradient[path][row] if len(starts) > 1 else gradient[path]
                parameter.grad = torch.tensor(np.array(gradient))
                optim.step()
            ends.append(parameter.detach().numpy())
        final[path] = np.stack(ends) if len(starts) > 1 else ends[0]
    return final


def check(history, final, tolerance=1e-6):
    for path, value in final.items():
        np.testing.assert_allclose(np.array(history[-1][path]), value, atol=tolerance, err_msg=path)


def decay_of(path, decay=0.1):
    return decay if path.endswith((".kernel", ".embedding")) else 0.0


def test_adamw():
    history, gradients, _ = updates_of(AdamW(b1=0.8, b2=0.95, eps=1e-6, decay=0.1))

    def make(params, path):
        return torch.optim.AdamW(params, 0.01, (0.8, 0.95), 1e-6, weight_decay=decay_of(path))

    check(history, by_torch(make, history, gradients))


@pytest.mark.parametrize("momentum, nesterov", [(0.0, "off"), (0.9, "off"), (0.9, "on")])
def test_sgd(momentum, nesterov):
    history, gradients, _ = updates_of(SGD(momentum=momentum, nesterov=nesterov))
    check(
        history,
        by_torch(lambda p, _: torch.optim.SGD(p, 0.01, momentum, nesterov=nesterov == "on"), history, gradients),
    )


def test_sgd_decay_is_not_in_the_momentum():
    history, gradients, _ = updates_of(SGD(momentum=0.9, decay=0.1))
    for path, start in history[0].items():
        value, trace = np.array(start), 0.0
        for gradient in gradients:
            trace = 0.9 * trace + np.array(gradient[path])
            value = value - 0.01 * (trace + decay_of(path) * value)
        check(history, {path: value})
    assert SGD(nesterov="yes").problems() and not SGD(nesterov="on").problems()


def test_lion():
    history, gradients, _ = updates_of(Lion(b1=0.9, b2=0.95, decay=0.1))
    for path, start in history[0].items():
        value, momentum = np.array(start, np.float64), 0.0
        for gradient in gradients:
            gradient = np.array(gradient[path], np.float64)
            direction = np.sign(0.9 * momentum + 0.1 * gradient)
            value = value - 0.01 * (direction + decay_of(path) * value)
            momentum = 0.95 * momentum + 0.05 * gradient
        check(history, {path: value})


def test_adafactor():
    """transformers' own, given each layer's matrix by itself."""
    history, gradients, _ = updates_of(Adafactor(min_dim_factored=4, decay=0.1, clip_update=0.7))

    def make(params, path):
        options = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
        decay = decay_of(path)
        return transformers.Adafactor(params, 0.01, clip_threshold=0.7, weight_decay=decay, **options)

    wanted = by_torch(make, history, gradients, rows=True)
    # It decays before the update, we decay the same parameter within it: lr * decay * lr apart.
    check(history, wanted, 2e-5)
    history, gradients, _ = updates_of(Adafactor(min_dim_factored=4, clip_update=0.7))
    check(history, by_torch(lambda p, _: make(p, "bias"), history, gradients, rows=True))


def test_adafactor_with_relative_rates():
    """As T5 was trained."""
    history, gradients, _ = updates_of(Adafactor(min_dim_factored=4, relative=True))

    def make(params, path):
        return transformers.Adafactor(params, 0.01, scale_parameter=True, relative_step=False, warmup_init=False)

    check(history, by_torch(make, history, gradients, rows=True))


def test_adafactor_keeps_rows_and_columns():
    _, _, state = updates_of(Adafactor(min_dim_factored=4), steps=1, only=("layers.0.0.attn.q.kernel",))
    large = [x.shape for x in jax.tree.leaves(state) if x.shape[-1:] > (1,)]
    assert sorted(large) == [(3, 6), (3, 9)]


def test_adafactor_factors_no_axis_of_layers():
    """Small limits, and more layers than columns: vectors of layers are not a matrix, experts are one each."""
    shapes = {"layers.0.norm.scale": (3, 8), "layers.0.wide.kernel": (9, 4, 5), "layers.0.experts.kernel": (2, 7, 4, 5)}
    params, grads = random_like(shapes), [random_like(shapes, seed) for seed in range(1, 6)]
    tx = Adafactor(min_dim_factored=1).make(optax.constant_schedule(0.01), known(shapes))
    ours, state = dict(params), tx.init(params)
    for gradient in grads:
        updates, state = tx.update(gradient, state, ours)
        ours = optax.apply_updates(ours, updates)

    def theirs(start, gradients):
        parameter = torch.nn.Parameter(torch.tensor(start))
        options = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
        optim = transformers.Adafactor([parameter], 0.01, clip_threshold=1.0, **options)
        for gradient in gradients:
            parameter.grad = torch.tensor(gradient)
            optim.step()
        return parameter.detach().numpy()

    for path, start in params.items():
        layers = [theirs(row, [gradient[path][i] for gradient in grads]) for i, row in enumerate(start)]
        np.testing.assert_allclose(ours[path], np.stack(layers), atol=1e-6, err_msg=path)


@pytest.mark.parametrize("optim", [AdamW(decay=0.1), SGD(momentum=0.9), Lion(), Adafactor(min_dim_factored=1), Muon()])
def test_a_stacked_array_is_updated_as_its_layers_are(optim):
    """Whatever the sizes: as many layers as a matrix has rows, and more of them than it has columns."""
    shapes = {"layers.0.norm.scale": (9, 8), "layers.0.q.kernel": (9, 6, 4), "layers.0.experts.kernel": (4, 3, 4, 5)}
    params, gradient = random_like(shapes), random_like(shapes, 1)

    def after(params, gradient):
        tx = optim.make(optax.constant_schedule(0.01), known(params))
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    whole = after(params, gradient)
    for row in (0, 3):
        alone = after(
            {path: x[row, None] for path, x in params.items()}, {path: x[row, None] for path, x in gradient.items()}
        )
        for path, value in alone.items():
            np.testing.assert_allclose(whole[path][row], value[0], atol=1e-6, err_msg=path)


def newton_schulz(matrix):
    """Jordan's five steps in float64."""
    x = matrix / np.linalg.norm(matrix)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def test_muon_treats_each_layer_by_itself():
    lr, path = 0.01, "layers.0.0.attn.q.kernel"
    history, gradients, _ = updates_of(Muon(decay=0.1), lr=lr)
    for row in range(3):
        alone = {"w": history[0][path][row]}
        tx = muon(lr, weight_decay=0.1, consistent_rms=0.2)
        state = tx.init(alone)
        for gradient in gradients:
            updates, state = tx.update({"w": gradient[path][row]}, state, alone)
            alone = optax.apply_updates(alone, updates)
        np.testing.assert_allclose(np.array(history[-1][path][row]), np.array(alone["w"]), atol=1e-6)
        # The first update by hand: 0.2 sqrt(larger side) times the orthogonalised gradient.
        before = np.array(history[0][path][row], np.float64)
        direction = newton_schulz(np.array(gradients[0][path][row], np.float64))
        first = before - lr * (0.2 * math.sqrt(9) * direction + 0.1 * before)
        np.testing.assert_allclose(np.array(history[1][path][row]), first, atol=1e-5)
        singular = np.linalg.svd(direction, compute_uv=False)
        assert 0.5 < singular.min() and singular.max() < 1.3


def test_muon_agrees_with_pytorch():
    path = "layers.0.0.attn.q.kernel"
    history, gradients, _ = updates_of(Muon(decay=0.1), lr=0.01, steps=1)

    def make(params, _):  # its Newton-Schulz steps are bfloat16
        return torch.optim.Muon(params, 0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")

    kernels = [{path: history[0][path]}, {path: history[1][path]}]
    wanted = by_torch(make, kernels, gradients, rows=True)
    check(kernels, wanted, 0.01 * 0.6 * 0.02)


def test_muon_leaves_the_rest_to_adamw():
    history, gradients, _ = updates_of(Muon(decay=0.1, b1=0.8, b2=0.95))

    def make(params, path):
        return torch.optim.AdamW(params, 0.01, (0.8, 0.95), weight_decay=decay_of(path))

    final = by_torch(make, history, gradients)
    del final["layers.0.0.attn.q.kernel"]
    check(history, final)


# --- what surrounds them ---


def all_params(model, seed=0):
    return {
        path: jnp.array(v) for path, v in random_like({p: shape(v) for p, v in variables(model).items()}, seed).items()
    }


def plain(optim, lr, model, trained, multipliers=None):
    multipliers = multipliers or lr_multipliers(model, (), None)
    return optimizer(optim, optax.constant_schedule(lr), model, trained, multipliers)


def check_decay(directory, kind, optim):
    """A step with zero gradients at the rate 0.5 shrinks matrices by 5% and leaves vectors as they are, to the bit."""
    model = model_of(directory, kind)
    params = all_params(model)
    tx = plain(optim, 0.5, model, list(params))
    zeros = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def step(params):
        updates, _ = tx.update(zeros, tx.init(params), params)
        return optax.apply_updates(params, updates)

    kept = set()
    for path, after in step(params).items():
        before = params[path]
        # By shape, not by name: what is a matrix within its layer decays.
        if before.ndim - path.startswith("layers.") == 2:
            np.testing.assert_allclose(after, 0.95 * before, rtol=1e-5, err_msg=path)
        else:
            assert np.array_equal(after, before), path
            kept.add(path.rpartition(".")[2])
    return kept


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_only_matrices_decay(families, family):
    kinds = ("sequence-classification", "masked-lm" if family == "bert" else "causal-lm")
    for kind in kinds:
        kept = check_decay(families[family], kind, AdamW(decay=0.1))
        assert kept == ({"scale"} if family == "llama" else {"scale", "bias"})


@pytest.mark.parametrize("optim", EVERY[1:], ids=lambda optim: type(optim).__name__)
def test_only_matrices_decay_by_every_optimizer(tiny_bert, optim):
    assert check_decay(tiny_bert, "masked-lm", optim) == {"scale", "bias"}


@pytest.mark.parametrize("optim", EVERY, ids=lambda optim: type(optim).__name__)
def test_what_is_frozen_has_no_state(tiny_bert, optim):
    model = model_of(tiny_bert)
    params = all_params(model)
    trained = [path for path in params if path.startswith("head.")]
    tx = plain(optim, 0.1, model, trained)
    state = tx.init({path: params[path] for path in trained})
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    arrays = sum(leaf.size for _, leaf in leaves if leaf.ndim)
    size = sum(params[path].size for path in trained)
    assert arrays <= 2 * size + 20 * len(trained)
    used = {key.key for path, _ in leaves for key in path if isinstance(getattr(key, "key", None), str)}
    assert not used & (params.keys() - set(trained))


def test_first_matching_multiplier_counts(families):
    model = model_of(families["bert"], "sequence-classification")
    table = ((r"layers.1.attn", 0.5), (r"layers.\d+", 0.25), ("embed", 0.0))
    found = lr_multipliers(model, table, None)
    for path, factors in found.items():
        for row, name in enumerate(names(model, path)):
            wanted = 0.5 if name.startswith("layers.1.attn.") else 0.25 if name.startswith("layers.") else 1.0
            wanted = 0.0 if name.startswith("embed.") else wanted
            assert factors.reshape(-1)[row] == np.float32(wanted), name
    with pytest.raises(UserError, match="lr_multipliers: the pattern 'layer.1' matches no parameter.*layers.1"):
        lr_multipliers(model, (("layer.1", 2.0),), None)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_layer_decay(deep, family):
    model = model_of(deep[family], "sequence-classification")
    found = lr_multipliers(model, (("head.out", 3.0),), 0.8)
    by_name = {
        n: factors.reshape(-1)[row] for path, factors in found.items() for row, n in enumerate(names(model, path))
    }
    assert sorted(by_name) == sorted(all_names(model))
    for name, factor in by_name.items():
        depth = {"embed": 13, "norm": 0, "head": 0}.get(name.split(".")[0])
        depth = 12 - int(name.split(".")[1]) if depth is None else depth
        wanted = 0.8**depth * (3.0 if name.startswith("head.out") else 1.0)
        assert factor == pytest.approx(wanted, rel=1e-6), name


def test_multipliers_scale_rate_and_decay(tiny_bert):
    model = model_of(tiny_bert)
    params, gradients = all_params(model), all_params(model, seed=1)
    trained = list(params)
    factors = lr_multipliers(model, (("head", 0.1),), 0.5)
    one, scaled = plain(AdamW(), 0.1, model, trained), plain(AdamW(), 0.1, model, trained, factors)
    plain_updates, _ = jax.jit(one.update)(gradients, one.init(params), params)
    updates, _ = jax.jit(scaled.update)(gradients, scaled.init(params), params)
    for path in trained:
        lead = (
            factors[path].reshape(-1, *[1] * (params[path].ndim - 1)) if path.startswith("layers.") else factors[path]
        )
        np.testing.assert_allclose(np.array(updates[path]), np.array(plain_updates[path]) * lead, rtol=1e-6, atol=1e-9)


def test_layer_decay_of_an_encoder_before_its_decoder(tmp_path):
    """Three layers of an encoder below two of a decoder; what all of them share is below everything."""
    make("t5", "seq2seq-lm", tmp_path)
    arch = architecture(open_pretrained(str(tmp_path)))
    model = Model(arch.spec, arch.head)
    powers = {}
    for path, factor in lr_multipliers(model, (), 0.5).items():
        rows = names(model, path)
        powers |= dict(zip(rows, -np.log2(np.broadcast_to(factor.ravel(), len(rows))), strict=True))
    wanted = {
        "embed.tokens.embedding": 6,
        "encoder.rel_bias.scores": 6,
        "encoder.layers.0.attn.q.kernel": 5,
        "encoder.layers.2.mlp.up.kernel": 3,
        "encoder.norm.scale": 2,
        "rel_bias.scores": 6,
        "layers.0.cross.k.kernel": 2,
        "layers.1.mlp.up.kernel": 1,
        "norm.scale": 0,
    }
    assert {name: powers[name] for name in wanted} == wanted
