"""Qwen1.5 and Qwen2 MoE (Qwen Team 2024): Qwen2 with experts and a shared MLP."""

from dataclasses import dataclass, replace

import jax

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import StackedExperts, WeightRule, architectures, linear
from jaxft.models.families import llama
from jaxft.models.layers.basic import Gated
from jaxft.models.layers.context import Carry, Context
from jaxft.models.layers.moe import Experts, ExpertsLayer, Router, read_router_aux_coef
from jaxft.models.spec import Layer, Part, Spec


@dataclass(frozen=True)
class WithShared:
    """Experts, and an MLP for all tokens whose output is multiplied by a gate for each token."""

    experts: Experts
    shared: Gated

    def build(self, width: int) -> "WithSharedLayer":
        return WithSharedLayer(self, width)


class WithSharedLayer(ExpertsLayer):
    def __init__(self, part: WithShared, width: int):
        super().__init__(part.experts, width)
        self.shared = part.shared.build(width)
        self.share = Router(width, 1, ("embed", None), bias=False)

    def __call__(self, x_btd: jax.Array, context: Context, key: jax.Array | None) -> tuple[jax.Array, Carry]:
        common, _ = self.shared(x_btd, context, key)
        y, carry = super().__call__(x_btd, context, key)
        return y + jax.nn.sigmoid(self.share(x_btd)) * common, carry


def count(c: ConfigReader) -> int:
    """The number of experts, under either of its names."""
    return c.num_experts if "num_experts" in c else c.num_local_experts


def experts(c: ConfigReader) -> Experts:
    return Experts(count(c), c.num_experts_per_tok, c.moe_intermediate_size, c.hidden_act, c.norm_topk_prob)


def with_experts(c: ConfigReader, layers: list[Layer], mixture: Part) -> Spec:
    """A backbone of `layers`, in some of which `mixture` replaces the MLP."""
    step, dense = c.decoder_sparse_step, c.get("mlp_only_layers", [])
    for number, layer in enumerate(layers):
        if count(c) and (number + 1) % step == 0 and number not in dense:
            layers[number] = replace(layer, mlp=mixture)
    same = llama.stack(c, tuple(layers))
    return replace(same, router_aux_coef=read_router_aux_coef(c))


def spec(c: ConfigReader) -> Spec:
    c.ignore("use_sliding_window", "max_window_layers")  # `layer_types` and `sliding_window` decide
    bias = frozenset("qkv" if c.qkv_bias else "")
    layers = [llama.layer(c, bias=bias, window=window) for window in llama.windows(c)]
    return with_experts(c, layers, WithShared(experts(c), Gated(c.shared_expert_intermediate_size, c.hidden_act)))


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft, stacked = "layers.{i}.mlp.", "layers.{i}.mlp.", StackedExperts(count(c))
    return [
        *llama.rules(c),
        WeightRule(hf + "gate", jaxft + "router", linear),
        *(WeightRule(f"{hf}experts.{{e}}.{x}_proj", f"{jaxft}experts.{x}", stacked) for x in ("gate", "up", "down")),
        *(WeightRule(f"{hf}shared_expert.{x}_proj", f"{jaxft}shared.{x}", linear) for x in ("gate", "up", "down")),
        WeightRule(hf + "shared_expert_gate", jaxft + "share", linear),
    ]


layer = llama.layer  # for families that build on this one
HEADS = llama.HEADS + " question-answering"
FAMILY = replace(
    llama.FAMILY,
    architectures=architectures("Qwen2Moe", HEADS),
    spec=spec,
    rules=rules,
    prefixes=(),
)
