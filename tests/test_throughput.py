"""What the log says of speed and memory: FLOPs of a step, peaks of chips, memory in use."""

import math
import re
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from depth import deep, lowered
from jax.extend.core import jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr
from steps import built_of, random_batch
from torch.utils.flop_counter import FlopCounterMode
from zoo import FAMILIES, heads_of, make

from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.layers.patches import AudioFrames, Patches
from jaxft.models.model import Model
from jaxft.models.params import shape, variables
from jaxft.parallel.mesh import make_mesh
from jaxft.reports.format import human
from jaxft.tasks.classify import Classify
from jaxft.tasks.lm import CausalLM
from jaxft.tasks.mlm import MaskedLM
from jaxft.training import throughput
from jaxft.training.flops import peak_flops, program_flops, step_flops
from jaxft.tune.full import Full
from jaxft.tune.partial import Partial


def products(jaxpr) -> Counter:
    """How often each matrix product of a program runs: (shape of the result, length of its sums) -> number."""
    found = Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            found[equation.outvars[0].aval.shape, depth] += 1
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            found.update({product: turns * count for product, count in products(inner).items()})
    return found


def without_repeats(found: Counter, layers: dict[int, int], length: int, attention) -> int:
    """FLOPs of products. `layers` is how many layers have so many queries a row.

    Left out is what attention's backward pass does again, one of three score-shaped products, and its row sums.
    """
    found = {product: count for product, count in found.items() if product[0][-1] != 1}
    total = sum(2 * count * depth * math.prod(result) for (result, depth), count in found.items())
    for (result, depth), count in found.items():
        if len(result) == 4 and result[-1] == length and depth == attention.head_dim:
            # A forward pass has one such product, both together have three.
            backward = (count - layers[result[-2] * attention.kv_heads // attention.heads]) / 2
            total -= 2 * backward * depth * math.prod(result)
    return total


TUNES = {
    "all": Full(),
    "head": Partial(train=("head",)),
    "last layer": Partial(last_layers=1),
    "two layers": Partial(last_layers=2),
    "no embeddings": Partial(freeze=("embed",)),
    "middle": Partial(train=("layers.1.mlp",)),
}


@pytest.mark.parametrize("scan", [0, 1])
@pytest.mark.parametrize("tune", TUNES.values(), ids=TUNES)
@pytest.mark.parametrize(
    "family, task",
    [("bert", MaskedLM()), ("bert", Classify()), ("gpt2", CausalLM()), ("llama", Classify()), ("llama", CausalLM())],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_flops_are_those_of_the_program(families, family, task, tune, scan, one_device):
    """Loss and gradient as traced, with every product counted."""
    if family == "gpt2" and tune is TUNES["head"]:
        tune = Partial(train=("norm",))  # its head is the tied embedding table
    found, expected = counted(families[family], task, tune, scan)
    assert found == expected


def counted(directory, task, tune, scan) -> tuple[float, float]:
    """FLOPs of a step as jaxft counts them, and those of the traced program."""
    built = built_of(directory, task, tune=tune, scan=scan)
    params = {path: jax.ShapeDtypeStruct(shape(v), jnp.float32) for path, v in variables(built.model).items()}
    trained = {path: params.pop(path) for path in built.trained}

    def loss(trained, frozen, batch):
        return built.loss({**trained, **frozen}, batch, None)["loss"].total

    batch = random_batch(4, 16, 100, isinstance(task, CausalLM))
    program = jax.make_jaxpr(jax.value_and_grad(loss))(trained, params, batch).jaxpr
    program, _ = dce_jaxpr(program, [True] * len(program.outvars))  # the table's gradient where it is frozen
    spec = built.model.spec
    runs, each = (
        sum(layer.num_repeats for layer in spec.layers),
        2 if spec.encoder else 1,
    )  # to itself and to the encoder's
    layers = Counter({16: len(spec.encoder.layers)} if spec.encoder else {})
    layers.update({16: each * (runs - 1), batch["at"].shape[1]: each} if "at" in batch else {16: each * runs})
    expected = without_repeats(products(program), layers, 16, built.model.spec.layers[0].attn)
    return step_flops(built.model, set(built.trained), batch), expected


@pytest.mark.parametrize("tune", ["all", "head", "two layers"])
@pytest.mark.parametrize(
    "family, head, task",
    [
        ("albert", "masked-lm", MaskedLM()),  # layers that run twice, and embeddings of another width
        ("albert", "sequence-classification", Classify()),
        ("qwen3", "causal-lm", CausalLM()),  # norms of heads
        ("gpt_neox", "causal-lm", CausalLM()),  # layers side by side
        ("mpnet", "masked-lm", MaskedLM()),  # learned distances
        ("t5", "sequence-classification", Classify()),  # an encoder and a decoder
    ],
)
def test_flops_of_other_kinds_of_layers(family, head, task, tune, tmp_path, one_device):
    make(family, head, tmp_path)
    found, expected = counted(tmp_path, task, TUNES[tune], 0)
    assert found == expected


HEADS = ("token-classification", "causal-lm", "masked-lm", "seq2seq-lm", "image-classification")
MORE_IN_TRANSFORMERS = {"xlnet"}  # distances for each row, although they are the same in all rows
LESS_IN_TRANSFORMERS = {"deberta"}  # distances that do occur only; jaxft computes all that the table has


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_are_those_of_transformers(family, tmp_path):
    """As PyTorch counts them while transformers' model runs: forward, and forward and backward."""
    head = next(head for head in HEADS if head in heads_of(family))
    hf = make(family, head, tmp_path)
    hf.set_experts_implementation("eager")  # PyTorch does not count its grouped products
    arch = architecture(open_pretrained(str(tmp_path)))
    batch, arguments = full_rows(arch.spec)
    model = Model(arch.spec, arch.head)
    found = [step_flops(model, trained, batch) for trained in ((), variables(model))]
    with FlopCounterMode(display=False) as counter:
        logits = hf(**arguments).logits
        expected = [counter.get_total_flops()]
        logits.sum().backward()
        expected.append(counter.get_total_flops())
    if family in MORE_IN_TRANSFORMERS | LESS_IN_TRANSFORMERS:
        assert (found[0] < expected[0]) == (found[1] < expected[1]) == (family in MORE_IN_TRANSFORMERS)
        return
    if arch.head.mean:  # which jaxft takes by a product, without a gradient of its second factor
        product = 2 * batch["segments"].size * arch.spec.width
        expected = [expected[0] + product, expected[1] + 2 * product]
    assert found == expected


def full_rows(spec) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """A batch of two rows without padding, one text each, and the same as arguments of transformers' model."""
    embed, rng = spec.input_side.embed, np.random.default_rng(0)

    def texts(length: int, side: str = "") -> dict[str, np.ndarray]:
        ones = np.ones((2, length), np.int32)
        tokens = rng.integers(5, 100, (2, length), np.int32)
        return {side + "tokens": tokens, side + "segments": ones, side + "positions": np.cumsum(ones, 1) - ones}

    if isinstance(embed, Patches | AudioFrames):
        batch = texts(embed.length) | {embed.key: rng.standard_normal((2, *embed.shape), np.float32)}
        arguments = {embed.argument: batch[embed.key]}
    else:
        batch = texts(13)
        arguments = {"input_ids": batch["tokens"]}
    if spec.encoder is not None:
        batch |= texts(9, "decoder_")
        arguments["decoder_input_ids"] = batch["decoder_tokens"]
    elif isinstance(embed, Patches):
        batch["at"] = np.zeros((2, 1), np.int32)
    return batch, {name: torch.tensor(x) for name, x in arguments.items()}


def test_flops_of_a_mesh_are_those_of_the_whole_batch(tmp_path):
    make("mixtral", "causal-lm", tmp_path)
    arch = architecture(open_pretrained(str(tmp_path)))
    model, batch = Model(arch.spec, arch.head), random_batch(8, 16, 100, True)
    alone = step_flops(model, variables(model), batch)
    with jax.set_mesh(make_mesh({"data": 4, "tensor": 2})):
        assert step_flops(model, variables(model), batch) == alone


def test_flops_of_a_decoder_alone(tmp_path):
    """Its unused cross-attention does not count: each weight of a matrix that a token meets is six operations."""
    make("bart", "causal-lm", tmp_path)
    arch = architecture(open_pretrained(str(tmp_path)))
    model, batch = Model(arch.spec, arch.head), random_batch(4, 16, 100, True)
    tokens, width, layers = 4 * 16, 24, 2
    weights = 125 * width + layers * (4 * width**2 + 2 * width * 32)
    scores = layers * 2 * tokens * 16 * width
    assert step_flops(model, variables(model), batch) == 6 * (tokens * weights + scores)


def test_flops_of_what_the_models_do_not_have():
    """A branch, a product whose result has no gradient, a convolution in groups."""
    x = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    image, kernel = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 9, 6), (3, 2, 15)))

    def of(function, *arguments):
        return program_flops(jax.make_jaxpr(function)(*arguments).jaxpr, [True] * len(arguments))

    product = 2 * 4 * 4 * 6
    branches = (lambda x: x @ x.T, lambda x: x @ x.T @ (x @ x.T))
    assert of(lambda x: jax.lax.cond(x[0, 0] > 0, *branches, x), x) == (3 * (2 * product + 2 * 4 * 4 * 4), [True])
    assert of(lambda x: jax.lax.stop_gradient(x) @ x.T, x) == (2 * product, [True])
    assert of(lambda x: jnp.argmax(x @ x.T, -1), x) == (3 * product, [False])

    def convolved(image, kernel):
        axes = ("NHC", "HIO", "NHC")
        return jax.lax.conv_general_dilated(image, kernel, (2,), "VALID", dimension_numbers=axes, feature_group_count=3)

    assert of(convolved, image, kernel) == (3 * 2 * (2 * 4 * 15) * (3 * 2), [True])


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU v4", 275e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("cpu", None),
    ],
)
def test_peaks(kind, peak, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)] * 4)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert peak_flops() == (peak and 4 * peak)


def test_memory(monkeypatch):
    """The fullest device; where devices do not tell, as on CPU, this process."""
    own = throughput.memory_bytes()
    assert 50e6 < own < 100e9
    ballast = np.ones(200_000_000 // 8)
    assert throughput.memory_bytes() >= own and ballast.sum() > 0
    devices = [SimpleNamespace(memory_stats=lambda used=used: {"peak_bytes_in_use": used}) for used in (5, 9, 7)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert throughput.memory_bytes() == 9


def test_numbers_for_people():
    assert [human(n) for n in (0, 999, 1234, 22_713_216, 1.5e9)] == ["0", "999", "1,234", "22.7 M", "1.5 G"]


def test_a_deeper_model_is_no_longer_a_program(tmp_path, one_device):
    """What XLA compiles has the same operations for 6 and for 48 layers: they are a loop."""
    shallow, deeper = (lowered(deep(layers, tmp_path / str(layers))).as_text() for layers in (6, 48))
    operations = [re.findall(r"= \"?([\w.]+)", text) for text in (shallow, deeper)]
    assert operations[0] == operations[1] and len(operations[0]) > 1000
