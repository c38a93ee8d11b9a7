"""Mixtures of experts: against a loop over tokens, over devices, in the loss, in files."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from zoo import make

import jaxft
from jaxft.models.layers.moe import combine
from jaxft.models.params import bind
from jaxft.optim.muon import Muon
from jaxft.optim.parameters import Parameter
from jaxft.parallel.mesh import make_mesh
from jaxft.problems import UserError

B, T, D, F, COUNT, CHOSEN = 4, 5, 6, 8, 5, 3


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((B, T, D))
    chosen = np.stack([rng.permutation(COUNT)[:CHOSEN] for _ in range(B * T)]).reshape(B, T, CHOSEN)
    chosen[chosen == 4] = 0  # nobody chooses the last one, and some take one expert twice
    shapes = (((COUNT, D, F), (COUNT, F)), ((COUNT, D, F), (COUNT, F)), ((COUNT, F, D), (COUNT, D)))
    maps = [tuple(rng.standard_normal(shape).astype(np.float32) for shape in pair) for pair in shapes]
    return x.astype(np.float32), chosen, rng.random((B, T, CHOSEN)).astype(np.float32), maps


def product(gate, up):
    return jnp.tanh(gate) * up


@pytest.mark.parametrize("bias", [False, True])
def test_each_token_passes_the_experts_that_it_chose(bias):
    x, chosen, weights, maps = drawn()
    maps = [(kernel, b if bias else None) for kernel, b in maps]

    def one_by_one(x, weights, maps):
        def passed(x, e):
            gate, up = (x @ kernel[e] + (0 if b is None else b[e]) for kernel, b in maps[:2])
            return product(gate, up) @ maps[2][0][e] + (0 if maps[2][1] is None else maps[2][1][e])

        rows = [sum(weights[b, t, k] * passed(x[b, t], chosen[b, t, k]) for k in range(CHOSEN)) for b, t in PLACES]
        return jnp.stack(rows).reshape(B, T, D)

    found, back = jax.vjp(lambda *a: combine(a[0], chosen, a[1], a[2], product), x, weights, maps)
    expected, back_plain = jax.vjp(one_by_one, x, weights, maps)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    cotangent = np.random.default_rng(1).standard_normal(found.shape).astype(np.float32)
    for one, other in zip(jax.tree.leaves(back(cotangent)), jax.tree.leaves(back_plain(cotangent)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1, np.abs(other).max()))


PLACES = list(np.ndindex(B, T))


def test_gradients_of_biases_in_bfloat16():
    """Of an expert that 4,096 tokens chose: in bfloat16 their sum would end at 256."""
    kernels = [jnp.zeros(shape, jnp.bfloat16) for shape in ((2, D, F), (2, D, F), (2, F, D))]
    x, chosen = jnp.zeros((1, 4096, D), jnp.bfloat16), jnp.ones((1, 4096, 1), jnp.int32)

    def total(bias):
        maps = [(kernels[0], None), (kernels[1], None), (kernels[2], bias)]
        return jnp.sum(combine(x, chosen, jnp.ones(chosen.shape, x.dtype), maps, product).astype(jnp.float32))

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(jnp.zeros((2, D))), [[0.0] * D, [4096.0] * D])


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_eight_devices_compute_what_one_does(family, sizes, tmp_path):
    """Loss and gradients, of rows that the mesh divides; and of some that it does not."""
    make(family, "causal-lm", tmp_path)
    model = jaxft.load(str(tmp_path))
    rng = np.random.default_rng(0)
    for rows in (8, 3):
        tokens = rng.integers(5, 100, (rows, 7)).astype(np.int32)
        batch = {"tokens": tokens, "segments": np.ones_like(tokens)}
        batch["positions"] = np.tile(np.arange(7, dtype=np.int32), (rows, 1))

        def loss(params, batch=batch):
            return jnp.sum(bind(model.model, params)(batch).logits ** 2)

        params = jax.tree.map(np.asarray, model.params)
        expected = jax.jit(jax.value_and_grad(loss))(params)
        with jax.set_mesh(make_mesh(sizes)):
            found = jax.jit(jax.value_and_grad(loss))(params)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1, np.abs(other).max()))


MIXTURES = ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"]


@pytest.mark.parametrize("family", MIXTURES)
def test_balance_is_that_of_transformers(family, tmp_path, one_device):
    """Padded texts, packed texts; with its gradient. Only where config.json asks for it."""
    theirs = make(family, "causal-lm", tmp_path, output_router_logits=True, router_aux_loss_coef=0.3)
    ours, rng = jaxft.load(str(tmp_path)), np.random.default_rng(0)
    ids, mask = rng.integers(5, 100, (3, 9)), np.ones((3, 9), np.int64)
    mask[0, 6:] = mask[2, 4:] = 0
    # A padding token's route must not count, wherever it stands.
    batch = {"tokens": np.int32(ids), "segments": np.int32(mask)}
    batch["positions"] = np.tile(np.arange(9, dtype=np.int32), (3, 1))
    routes = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask)).router_logits
    count = routes[0].shape[-1]
    chosen = theirs.config.num_experts_per_tok
    loss = 0.3 * load_balancing_loss_func(routes, count, chosen, torch.tensor(mask))
    loss.backward()
    found, grads = jax.jit(jax.value_and_grad(lambda p: bind(ours.model, p)(batch).aux_loss))(ours.params)
    assert float(found) == pytest.approx(loss.item(), rel=1e-5)
    wanted = theirs.model.embed_tokens.weight.grad.numpy()
    np.testing.assert_allclose(grads["embed.tokens.embedding"], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    tagger = jaxft.load(str(tmp_path), head="sequence-classification")
    at = {"at": batch["tokens"][:, :1]}
    assert jax.eval_shape(bind(tagger.model, tagger.params), batch | at).aux_loss is None
    plain = make(family, "causal-lm", tmp_path / "plain", router_aux_loss_coef=0.3)
    assert not plain.config.output_router_logits
    assert jax.eval_shape(bind(jaxft.load(str(tmp_path / "plain")).model, ours.params), batch).aux_loss is None


def test_balance_is_part_of_the_loss(tmp_path, one_device):
    from steps import built_of, random_batch

    from jaxft.tasks.lm import CausalLM

    make("mixtral", "causal-lm", tmp_path, output_router_logits=True, router_aux_loss_coef=0.3)
    built = built_of(tmp_path, CausalLM())
    params = jaxft.load(str(tmp_path)).params
    batch = random_batch(4, 16, 100, True)
    sums, out = built.loss(params, batch, None), built.forward(params, batch, None)
    plain = built.task.loss(out, batch)
    assert sums["loss"].value() == plain["loss"].value()  # as in evaluation
    mean = sums["weighted_loss"].total / sums["weighted_loss"].count
    assert float(mean) == pytest.approx(float(plain["loss"].total / plain["loss"].count + out.aux_loss), rel=1e-6)
    assert float(sums["balance"].total / sums["balance"].count) == pytest.approx(float(out.aux_loss), rel=1e-6)
    assert float(out.aux_loss) > 0.3  # 0.3 * chosen where all experts are used alike


def test_flops_count_the_experts_that_are_chosen(tmp_path, one_device):
    """Twice as many chosen ones cost as much more as twice as many tokens would in the experts' maps."""
    from steps import built_of, random_batch

    from jaxft.tasks.lm import CausalLM
    from jaxft.training.flops import step_flops

    counted = []
    for chosen in (1, 2):
        make("mixtral", "causal-lm", tmp_path / str(chosen), num_experts_per_tok=chosen)
        built = built_of(tmp_path / str(chosen), CausalLM())
        counted.append(step_flops(built.model, set(built.trained), random_batch(4, 16, 100, True)))
    assert counted[1] - counted[0] == 3 * 2 * (4 * 16) * 3 * (3 * 24 * 40)  # passes, layers, maps of 24 by 40


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda name: None if name.endswith("0.block_sparse_moe.experts.3.w1.weight") else name,
            "the checkpoint lacks model.layers.0.block_sparse_moe.experts.3.w1.weight",
        ),
        (
            lambda name: name.replace("experts.4", "experts.5"),
            "unexpected tensor model.layers.1.block_sparse_moe.experts.5.w2.weight",
        ),
    ],
)
def test_experts_that_are_missing(change, message, tmp_path):
    make("mixtral", "causal-lm", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {change(name): array for name, array in load_file(file).items()}
    tensors.pop(None, None)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=re.escape(message)):
        jaxft.load(str(tmp_path))


def test_a_transposed_expert(tmp_path):
    make("mixtral", "causal-lm", tmp_path)
    file, name = tmp_path / "model.safetensors", "model.layers.0.block_sparse_moe.experts.3.w1.weight"
    tensors = load_file(file)
    save_file(tensors | {name: np.ascontiguousarray(tensors[name].T)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=re.escape(f"{name} has shape (40, 24), the model needs (24, 40)")):
        jaxft.load(str(tmp_path))


def test_muon_makes_each_experts_update_orthogonal():
    gradient = np.random.default_rng(0).standard_normal((2, 3, 8, 5)).astype(np.float32)
    path = "layers.segments.0.0.mlp.experts.up.kernel"
    params = {path: jnp.zeros_like(gradient)}
    tx = Muon(decay=0.0).make(optax.constant_schedule(1.0), {path: Parameter("kernel", stacked=True)})
    updates, _ = tx.update({path: gradient}, tx.init(params), params)
    for matrix in np.asarray(updates[path]).reshape(6, 8, 5):
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.min() > 0.5 * values.max() > 0
