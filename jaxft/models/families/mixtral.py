"""Mixtral (Jiang et al. 2024): Mistral with a mixture of experts in place of each MLP."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import StackedExperts, WeightRule, architectures, linear
from jaxft.models.families import llama
from jaxft.models.layers.moe import Experts, read_router_aux_coef
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("router_jitter_noise", 0.0, "noise on the router's input is not implemented")
    layer = llama.layer(c, window=c.get("sliding_window"))
    experts = Experts(c.num_local_experts, c.num_experts_per_tok, c.intermediate_size, c.hidden_act)
    same = llama.stack(c, (replace(layer, mlp=experts),) * c.num_hidden_layers)
    return replace(same, router_aux_coef=read_router_aux_coef(c))


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, stacked = "layers.{i}.block_sparse_moe.", StackedExperts(c.num_local_experts)
    names = {"w1": "gate", "w3": "up", "w2": "down"}
    return [
        *(rule for rule in llama.rules(c) if ".mlp." not in rule.jaxft),
        WeightRule(hf + "gate", "layers.{i}.mlp.router", linear),
        *(WeightRule(f"{hf}experts.{{e}}.{a}", "layers.{i}.mlp.experts." + b, stacked) for a, b in names.items()),
    ]


FAMILY = replace(
    llama.FAMILY,
    architectures=architectures("Mixtral", llama.HEADS + " question-answering"),
    spec=spec,
    rules=rules,
    prefixes=(),
)
