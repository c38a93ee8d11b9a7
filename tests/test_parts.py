"""Parts with gradients or random bits of their own, against plain computations."""

import math
import re
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from compiled import IDS, MESHES, table_moves
from jax.extend.random import threefry_2x32
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder
from transformers.models.t5.modeling_t5 import T5Attention

from jaxft.models.checkpoint.encoder_only import tensor_maps
from jaxft.models.checkpoint.weight_table import WeightRule, linear
from jaxft.models.families.deberta_v2 import DistanceEmbeddings
from jaxft.models.layers import lm_loss
from jaxft.models.layers.activations import gelu
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.layers.dropout import keep_mask
from jaxft.models.layers.kernels import choice
from jaxft.models.layers.kernels.kernel import AttentionCall, MaskSpec, SoftmaxSpec
from jaxft.models.layers.kernels.tiled import MASKED, Tiled, attention_weights, dot_product_attention
from jaxft.models.layers.kernels.tiles import TILE, tiles
from jaxft.models.layers.relative_bias import T5Buckets, toeplitz
from jaxft.models.layers.tokens import Tokens
from jaxft.models.spec import PRE_NORM, Layer, Spec
from jaxft.parallel.mesh import make_mesh, shard, sharding

B, T, S, HEADS, KV, H = 4, 9, 9, 6, 3, 5
RATE = 0.25


def inputs(dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = ((B, T, HEADS, H), (B, S, KV, H), (B, S, KV, H), (B, T, HEADS, H))
    q, k, v, g = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    segments = np.array([[1] * 5 + [2] * 4, [1] * 6 + [0] * 3, [1] * 9, [0] * 2 + [1] * 3 + [2] * 4])
    return q, k, v, g, segments


def mask_of(segments, causal, window=None):
    tokens = Tokens.rows(segments, segments)
    return MaskSpec(causal, window).dense(tokens, tokens)


PLAIN = SoftmaxSpec(1 / math.sqrt(H))


def plain(q, k, v, mask, how, keep=None, attn_bias=None):
    """Vaswani et al. 2017, eq. 1, head by head; dropout on the weights."""
    rows = []
    for head in range(HEADS):
        key_head, query_head = divmod(head, HEADS // KV)
        scores = how.scale * q[:, :, head] @ k[:, :, key_head].swapaxes(1, 2)
        if how.softcap is not None:
            scores = how.softcap * jnp.tanh(scores / how.softcap)
        if attn_bias is not None:
            scores = scores + attn_bias.reshape(len(attn_bias), KV, HEADS // KV, -1, S)[:, key_head, query_head]
        weights = jax.nn.softmax(jnp.where(mask[:, 0], scores, MASKED), -1)
        if keep is not None:
            weights = weights * keep[:, key_head, query_head * T : (query_head + 1) * T] / (1 - how.dropout)
        rows.append(weights @ v[:, :, key_head])
    return jnp.stack(rows, 2)


HOW = {
    "plain": PLAIN,
    "dropout": SoftmaxSpec(1 / math.sqrt(H), dropout=RATE),
    "bent": SoftmaxSpec(0.7, softcap=1.5),
    "all": SoftmaxSpec(0.7, softcap=1.5, dropout=RATE),
}


@pytest.mark.parametrize("causal, window", [(False, None), (True, None), (True, 3), (False, 2)])
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("tile", [TILE["cpu"], 2 * KV * 4 * 2 * T * S, 4 * 2 * T * S])  # all, two rows, one head
def test_attention_and_its_gradients(causal, window, how, tile, monkeypatch):
    monkeypatch.setitem(TILE, "cpu", tile)
    q, k, v, g, segments = inputs()
    mask = mask_of(segments, causal, window)
    key = jax.random.key(3) if how.dropout else None
    keep = keep_mask(key, RATE, (B, KV, HEADS // KV * T, S)) if how.dropout else None
    attn_bias = (
        np.random.default_rng(1).standard_normal((B, KV, HEADS // KV, S)).astype(np.float32) if how.softcap else None
    )
    found, back = jax.vjp(lambda q, k, v: Tiled()(q, k, v, mask, how, key, attn_bias), q, k, v)
    with jax.enable_x64(True):
        wide = [x.astype(np.float64) for x in (q, k, v, g)]
        expected, back_plain = jax.vjp(lambda q, k, v: plain(q, k, v, mask, how, keep, attn_bias), *wide[:3])
        gradients = back_plain(wide[3])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    for one, other in zip(back(g), gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6)


def test_the_first_kernel_that_does_not_refuse(monkeypatch):
    class Fast(Tiled):
        name = "fast"

        def refuses(self, call):
            return "it adds no bias" if call.bias else None

    fast, reference = Fast(), Tiled()
    monkeypatch.setattr(choice, "KERNELS", (fast, reference))
    call = AttentionCall("tpu", T, S, HEADS, KV, H, MaskSpec(), PLAIN, bias=False, sinks=False)
    choose_kernel = choice.choose_kernel.__wrapped__  # without its cache
    assert choose_kernel(call) is fast and choose_kernel(replace(call, bias=True)) is reference


def test_an_axis_without_a_rule_is_an_error():
    with jax.set_mesh(make_mesh({"data": 4, "tensor": 2})), pytest.raises(KeyError, match="lenght"):
        shard(jnp.zeros((8, 4)), "batch", "lenght")


@pytest.mark.parametrize("norms", [{"atn_in"}, {"attn_in", "norm"}])
def test_a_norm_has_a_place(norms):
    attention, norm = Attention(2, 2, 4, causal=True), LayerNorm(1e-5)
    with pytest.raises(AssertionError, match="not among NORM_PLACES"):
        Layer(attention, Dense(8, "gelu"), norm, frozenset(norms))


def test_a_parameter_has_one_rule():
    layer = Layer(Attention(2, 2, 4, causal=True), Dense(8, "gelu"), LayerNorm(1e-5), PRE_NORM)
    spec = Spec(8, Embed(5), (layer,), None, None, 0.02)
    rules = [WeightRule(name + "{i}", "layers.{i}.mlp.up", linear) for name in ("fc", "up_proj")]
    assert len(tensor_maps(rules[:1], spec)) == 2
    with pytest.raises(AssertionError, match=r"two weight rules for layers\.\{i\}\.mlp\.up"):
        tensor_maps(rules, spec)


@pytest.mark.parametrize("tile, splits", [(4 * 2 * T * S, 1), (4 * T * S, 2)])
def test_query_heads_in_tiles_of_their_own(tile, splits, monkeypatch):
    """Where a key head's scores exceed a tile, elsewhere than on CPU: with learned bias, sinks and softcap."""
    monkeypatch.setattr("jaxft.models.layers.kernels.tiles.platform", lambda: "tpu")
    q, k, v, g, segments = inputs()
    mask, softmax = mask_of(segments, True), SoftmaxSpec(0.7, softcap=1.5, learned_bias=True)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal((1, KV, HEADS // KV * T, S)).astype(np.float32)
    sinks = rng.standard_normal(HEADS).astype(np.float32)

    def attend(q, k, v, bias, sinks):
        return Tiled()(q, k, v, mask, softmax, None, bias, sinks)

    expected, back = jax.vjp(attend, q, k, v, bias, sinks)
    wanted = back(g)
    monkeypatch.setitem(TILE, "other", tile)
    program = str(jax.make_jaxpr(attend)(q, k, v, bias, sinks))
    assert f"f32[1,1,{HEADS // KV // splits * T},{S}]" in program
    found, back = jax.vjp(attend, q, k, v, bias, sinks)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    for one, other in zip(back(g), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("sinks", [False, True])
def test_attention_weights(biased, sinks):
    """What a query takes of values that are 1 at one key and 0 at all others."""
    q, k, _, _, segments = inputs()
    mask, softmax = mask_of(segments, True, 4), SoftmaxSpec(0.7, softcap=1.5)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal((1, KV, HEADS // KV * T, S)).astype(np.float32) if biased else None
    sinks = rng.standard_normal(HEADS).astype(np.float32) if sinks else None
    one_hot = np.broadcast_to(np.eye(S, dtype=np.float32)[None, :, None], (B, S, KV, S))
    expected = Tiled()(q, k, one_hot, mask, softmax, None, bias, sinks).mean(2)
    found = attention_weights(q, k, mask, softmax, bias, sinks)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert (np.asarray(found.sum(-1)) < 0.99).all() if sinks is not None else found.sum(-1) == pytest.approx(1)


@pytest.mark.parametrize("shared", [True, False], ids=["one for all rows", "one for each"])
@pytest.mark.parametrize("tile", [TILE["cpu"], 2 * KV * 4 * 2 * T * S, 4 * 2 * T * S])  # all, two rows, one head
def test_learned_scores_and_their_gradients(shared, tile, monkeypatch):
    monkeypatch.setitem(TILE, "cpu", tile)
    q, k, v, g, segments = inputs()
    mask, how = mask_of(segments, False), SoftmaxSpec(0.7, softcap=1.5, learned_bias=True)
    attn_bias = (
        np.random.default_rng(1).standard_normal((1 if shared else B, KV, HEADS // KV * T, S)).astype(np.float32)
    )
    found, back = jax.vjp(lambda *given: Tiled()(*given[:3], mask, how, None, given[3]), q, k, v, attn_bias)
    with jax.enable_x64(True):
        wide = [x.astype(np.float64) for x in (q, k, v, attn_bias)]
        expected, back_plain = jax.vjp(lambda *given: plain(*given[:3], mask, how, attn_bias=given[3]), *wide)
        gradients = back_plain(g.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    for one, other in zip(back(g), gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6)


@pytest.mark.parametrize("alibi_slopes", [False, True])
def test_no_scores_are_made_before_the_loop_over_layers(alibi_slopes, monkeypatch):
    """The mask is the same in all layers: made into what is added to the scores, it would be kept for all tiles."""
    monkeypatch.setitem(TILE, "cpu", 4 * HEADS // KV * T * S)
    q, k, v, _, segments = inputs()
    mask = mask_of(segments, True)
    attn_bias = np.ones((B, KV, HEADS // KV, S), np.float32) if alibi_slopes else None

    def loss(q):
        def layer(q, number):
            return Tiled()(q, k, v, mask, PLAIN, None, attn_bias), number

        return jnp.sum(jax.lax.scan(jax.checkpoint(layer), q, jnp.arange(3))[0])

    outside = results_outside_of_loops(jax.make_jaxpr(jax.grad(loss))(q).jaxpr, 3)
    assert len(outside) > 3
    assert not [x for x in outside if x.shape[-1:] == (S,) and x.size >= B * T * S and x.dtype != bool]


def results_outside_of_loops(jaxpr, turns):
    """Shapes and dtypes of all results, except inside of loops of so many turns."""
    found = []
    for eqn in jaxpr.eqns:
        found += [variable.aval for variable in eqn.outvars]
        loop = eqn.primitive.name == "scan" and eqn.params["length"] == turns
        inner = [] if loop else [getattr(value, "jaxpr", value) for value in jax.tree.leaves(eqn.params)]
        for value in inner:
            found += results_outside_of_loops(value, turns) if hasattr(value, "eqns") else []
    return found


@pytest.mark.parametrize("count, longest", [(32, 128), (8, 10), (20, 128), (32, 1000)])
def test_buckets_of_distances(count, longest):
    """Those of transformers, at every distance; its encoder's and its decoder's, and MPNet's."""
    ahead = np.arange(-5000, 5000)
    for causal in (False, True):
        theirs = T5Attention._relative_position_bucket(torch.tensor(ahead), not causal, count, longest)
        assert np.array_equal(T5Buckets(1, count, longest, causal).numbers(ahead), theirs.numpy())
    theirs = MPNetEncoder.relative_position_bucket(torch.tensor(ahead), count, longest)
    assert np.array_equal(T5Buckets(1, count, longest, False).numbers(ahead), theirs.numpy())


@pytest.mark.parametrize("buckets, longest", [(256, 512), (4, 9), (32, 100)])
def test_buckets_of_vectors(buckets, longest):
    """Those of transformers' DeBERTa v3, at every distance."""
    back = np.arange(-3000, 3000)
    theirs = make_log_bucket_position(torch.tensor(back), buckets, longest).long().numpy()
    found = DistanceEmbeddings(buckets, True, longest, None).numbers(back)
    assert np.array_equal(found, np.clip(theirs + buckets, 0, 2 * buckets - 1))


def test_scores_of_distances_have_a_place_for_each_query_and_key():
    of_distance = np.random.default_rng(0).standard_normal((2, 9)).astype(np.float32)
    found = np.asarray(toeplitz(of_distance, 5))
    for head, t, s in np.ndindex(2, 5, 5):
        assert found[head, t, s] == of_distance[head, s - t + 4]


def test_what_a_token_sees():
    """Its own text; before itself where attention is causal; less than a window away."""
    segments = np.array([[1, 1, 1, 1, 2, 2, 0]])
    for causal, window in ((False, None), (True, None), (True, 2), (False, 2)):
        found = np.asarray(mask_of(segments, causal, window))[0, 0]
        for t, s in np.ndindex(7, 7):
            near = window is None or abs(t - s) < window
            assert found[t, s] == (segments[0, t] == segments[0, s] and near and (s <= t or not causal))


def test_the_fewest_tiles_that_fit(monkeypatch):
    monkeypatch.setitem(TILE, "cpu", 2**20)
    assert tiles(16, 12, 2**10) == (1, 1)
    assert tiles(16, 12, 2**16) == (16, 1)  # a row takes 3/4 of a tile
    assert tiles(16, 12, 2**15) == (8, 1)
    assert tiles(15, 12, 2**15) == (15, 1)  # every tile has as many rows
    assert tiles(16, 12, 2**18) == (16, 3)
    assert tiles(16, 12, 2**21) == (16, 12)  # one key head of a row is the least
    with jax.set_mesh(make_mesh({"data": 4, "tensor": 2})):
        assert tiles(16, 12, 2**18) == (4, 2)  # eight devices have three of the 24 pairs each, four at once
        assert tiles(16, 12, 2**30) == (4, 6)


def test_attention_in_half_precision():
    """Of inputs that bfloat16 holds exactly: the error is that of rounding weights and results, of 8 bits."""
    q, k, v, g, segments = inputs()
    q, k, v, g = (np.asarray(jnp.asarray(x, jnp.bfloat16)) for x in (q, k, v, g))
    mask = mask_of(segments, True)
    found, back = jax.vjp(lambda q, k, v: Tiled()(q, k, v, mask, PLAIN, None), q, k, v)
    wide = [x.astype(np.float32) for x in (q, k, v)]
    expected, back_plain = jax.vjp(lambda q, k, v: plain(q, k, v, mask, PLAIN), *wide)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=0, atol=0.02)
    for one, other in zip(back(g), back_plain(g.astype(np.float32)), strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype(np.float32), other, rtol=0, atol=0.02 * np.abs(other).max())


@pytest.mark.parametrize("shape", [(1, 4), (3, 7), (2, 9, 5), (2, 3, 17, 5)])
def test_each_quarter_of_a_block_decides_on_an_element(shape, monkeypatch):
    """Sixteen bits of the block (Random123's, as JAX has it) whose number is the place's, for rows 4 i to 4 i + 3."""
    key, rows = jax.random.fold_in(jax.random.key(7), len(shape)), -(-shape[-2] // 4)
    count = math.prod(shape[:-2]) * rows * shape[-1]
    numbers = jnp.concatenate([jnp.zeros(count, jnp.uint32), jnp.arange(count, dtype=jnp.uint32)])
    words = np.asarray(threefry_2x32(jax.random.key_data(key), numbers)).reshape(2, *shape[:-2], rows, shape[-1])
    quarters = np.stack([words[0] & 0xFFFF, words[0] >> 16, words[1] & 0xFFFF, words[1] >> 16], -2)
    expected = quarters.reshape(*shape[:-2], 4 * rows, shape[-1])[..., : shape[-2], :] >= 0.3 * 2**16
    assert np.array_equal(keep_mask(key, 0.3, shape), expected)
    monkeypatch.setattr("jaxft.models.layers.dropout.platform", lambda: "tpu")  # in one piece there
    assert np.array_equal(keep_mask(key, 0.3, shape), expected)


def test_dropout_draws_its_bits_once():
    """Not once more for each place that reads them: of a drawing's 20 rounds each has one shift to the left."""
    q, k, v, _, segments = inputs()
    mask, how = mask_of(segments, False), SoftmaxSpec(1.0, dropout=RATE)

    def mixed(q, key):
        return jnp.sum(Tiled()(q, k, v, mask, how, key) ** 2)

    compiled = jax.jit(jax.grad(mixed)).lower(q, jax.random.key(1)).compile().as_text()
    assert compiled.count(" shift-left(") == 20


@pytest.mark.parametrize("rate", [0.0, RATE])
def test_nothing_of_length_times_length_is_kept(rate):
    q, k, v, _, segments = inputs()
    key = jax.random.key(3) if rate else None
    mask = mask_of(segments, False)
    q, k, v = (x.reshape(B, -1, KV, H).swapaxes(1, 2) for x in (q, k, v))
    _, back = jax.vjp(
        lambda q, k, v: dot_product_attention(q, k, v, mask, None, None, key, SoftmaxSpec(1.0, dropout=rate)), q, k, v
    )
    stored = [x.shape for x in jax.tree.leaves(back) if hasattr(x, "shape")]
    assert stored and not [shape for shape in stored if len(shape) == 4 and shape[1] == KV and shape[3] == S]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gelu_is_that_of_pytorch(dtype):
    x = np.concatenate([np.linspace(-12, 12, 4001), [-0.0, 1e-8, -1e-8, 100, -100]]).astype(np.float32)
    theirs = torch.tensor(x).to(getattr(torch, dtype)).requires_grad_()
    expected = torch.nn.functional.gelu(theirs)
    expected.sum().backward()
    ours = jnp.asarray(x, dtype)
    found, slope = gelu(ours), jax.vmap(jax.grad(lambda x: gelu(x).astype(jnp.float32)))(ours)
    tolerance = 1e-6 if dtype == "float32" else 2**-7  # one unit of the last place
    for one, other in ((found, expected), (slope, theirs.grad)):
        other = other.detach().float().numpy()
        assert one.dtype == dtype
        np.testing.assert_allclose(np.float32(one), other, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3, 64, 65), (7, 13, 33), (1000, 1, 24), (999, 7)])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_asked(shape, rate):
    keep = np.asarray(keep_mask(jax.random.key(1), rate, shape))
    assert keep.shape == shape and keep.dtype == bool
    deviation = math.sqrt(rate * (1 - rate) / keep.size)
    assert abs((1 - keep.mean()) - rate) <= 4 * deviation
    # Neighbours, and the four rows that share a block, know nothing of each other.
    pairs = [(keep[..., 1:], keep[..., :-1])]
    pairs += [(keep[..., apart:, :], keep[..., :-apart, :]) for apart in (1, 2, 3) if shape[-2] > apart]
    for one, other in pairs:
        both = (~one & ~other).mean()
        assert abs(both - rate**2) <= 5 * math.sqrt(max(rate**2 * (1 - rate**2), 0) / one.size)
    assert rate in (0.0,) or not np.array_equal(keep, keep_mask(jax.random.key(2), rate, shape))


@pytest.mark.parametrize("chunk", [1, 2, 7])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_cross_entropy_in_pieces(chunk, biased, softcap, monkeypatch):
    """Sum, hits and gradients are those of all scores at once, and no array holds all of them."""
    rng = np.random.default_rng(0)
    b, k, d, v = 3, 7, 5, 23
    hidden, table, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((b, k, d), (v, d), (v,)))
    targets, weights = rng.integers(0, v, (b, k)), rng.integers(0, 3, (b, k)).astype(np.float32)
    hidden[0, 0], weights[0, 0] = 1e38, 0.0  # what does not count may be beyond all numbers
    monkeypatch.setitem(lm_loss.CHUNK, "cpu", chunk * b * v)

    def ours(hidden, table, bias):
        total, hits = lm_loss.LazyLogits(hidden, table, bias, softcap).cross_entropy(targets, weights)
        return 2 * total, hits

    def whole(hidden, table, bias):
        scores = hidden @ table.T + (0 if bias is None else bias)
        scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
        errors = optax.softmax_cross_entropy_with_integer_labels(scores, targets)
        return 2 * jnp.sum(jnp.where(weights > 0, errors * weights, 0)), jnp.argmax(scores, -1) == targets

    args = [hidden, table, bias if biased else None]
    trained = (0, 1, 2) if biased else (0, 1)
    gradient = jax.jit(jax.value_and_grad(ours, trained, has_aux=True))
    (found, hits), grads = gradient(*args)
    args[0][0, 0] = 1.0
    (wanted, wanted_hits), wanted_grads = jax.value_and_grad(whole, trained, has_aux=True)(*args)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    assert float(jax.jit(ours)(*args)[0]) == pytest.approx(float(wanted), rel=1e-6)
    np.testing.assert_array_equal(np.asarray(hits)[weights > 0], np.asarray(wanted_hits)[weights > 0])
    for one, other in zip(grads, wanted_grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)
    program = gradient.lower(*args).compile().as_text()
    sizes = {math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", program)}
    assert (b * k * v in sizes) == (chunk == 7) and max(sizes) <= max(chunk * b * v, b * 8 * d, v * d)


def on_mesh(sizes, *arrays):
    """(a mesh, the arrays on it), each array given with the logical names of its axes."""
    mesh = make_mesh(sizes)
    return mesh, [x if x is None else jax.device_put(x, sharding(names, x.shape, mesh)) for x, names in arrays]


@pytest.mark.parametrize("trains", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("sizes", MESHES, ids=IDS)
def test_cross_entropy_on_devices(sizes, trains, monkeypatch):
    """One device's numbers; the table is gathered once and its gradient summed once, however many pieces there are."""
    rng, (b, k, d, v) = np.random.default_rng(0), (8, 7, 16, 24) if trains else (6, 7, 16, 23)  # or undivided
    hidden, table, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((b, k, d), (v, d), (v,)))
    table[3] = table[5]  # of equal scores the first counts
    targets, weights = rng.integers(0, v, (b, k)), rng.integers(0, 3, (b, k)).astype(np.float32)
    targets[:, :2], bias = (3, 5), bias if trains else None
    monkeypatch.setitem(lm_loss.CHUNK, "cpu", 2 * v)

    def ours(hidden, table, bias):
        total, hits = lm_loss.LazyLogits(hidden, table, bias, 1.5).cross_entropy(targets, weights)
        return 2 * total, hits

    gradient = jax.jit(jax.value_and_grad(ours, (0, 1, 2) if trains else 0, has_aux=True))
    expected = gradient(hidden, table, bias)
    mesh, args = on_mesh(sizes, (hidden, ("batch", None, None)), (table, ("vocab", "embed")), (bias, ("vocab",)))
    with jax.set_mesh(mesh):
        program = gradient.lower(*args).compile()
        found = program(*args)
        (total, hits) = jax.jit(ours)(*args)
    assert float(total) == pytest.approx(float(expected[0][0]), rel=1e-6)
    np.testing.assert_array_equal(hits, expected[0][1])
    np.testing.assert_array_equal(found[0][1], expected[0][1])
    for one, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)
    v, own = v // (sizes.get("tensor", 1) if trains else 1), d // sizes.get("fsdp", 1)
    moved, split = table_moves(program.as_text(), {(v, d), (v, own)}), "fsdp" in sizes
    summed = trains and "data" in sizes
    assert moved == Counter({"all-gather": split, "reduce-scatter": split and trains, "all-reduce": summed})
    assert "while(" in program.as_text()
