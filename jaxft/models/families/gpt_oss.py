"""gpt-oss (OpenAI 2025): a decoder with experts, attention sinks, and sliding windows in every other layer."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import Interleaved, Renamed, WeightRule, architectures, linear, tensor
from jaxft.models.families import llama
from jaxft.models.layers.moe import Experts, read_router_aux_coef
from jaxft.models.spec import Spec


def swiglu(gate: jax.Array, up: jax.Array, alpha: float, limit: float) -> jax.Array:
    """SwiGLU with inputs clipped at `limit` and 1 added to `up` (the model card, section 2.2)."""
    gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
    return (up + 1) * gate * jax.nn.sigmoid(alpha * gate)


def spec(c: ConfigReader) -> Spec:
    c.expect("hidden_act", "silu", "the activation is SwiGLU with swiglu_alpha and swiglu_limit")
    gate_fn = partial(swiglu, alpha=c.swiglu_alpha, limit=c.swiglu_limit)
    sizes = c.num_local_experts, c.num_experts_per_tok, c.intermediate_size
    experts = Experts(*sizes, c.hidden_act, bias=True, gate_fn=gate_fn)
    layers = [replace(llama.layer(c, sinks=True, window=window), mlp=experts) for window in llama.windows(c)]
    same = llama.stack(c, tuple(layers))
    return replace(same, router_aux_coef=read_router_aux_coef(c))


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "layers.{i}.", "layers.{i}."
    pairs = (("", ".kernel"), ("_bias", ".bias"))
    return [
        *(rule for rule in llama.rules(c) if ".mlp." not in rule.jaxft),
        WeightRule(hf + "self_attn.sinks", jaxft + "attn.sinks", tensor),
        WeightRule(hf + "mlp.router", jaxft + "mlp.router", linear),
        WeightRule(hf + "mlp.experts.gate_up_proj", jaxft + "mlp.experts.both", Interleaved(("gate", "up"), pairs)),
        WeightRule(hf + "mlp.experts.down_proj", jaxft + "mlp.experts.down", Renamed(pairs)),
    ]


FAMILY = replace(
    llama.FAMILY,
    architectures=architectures("GptOss", llama.HEADS),
    spec=spec,
    rules=rules,
)
