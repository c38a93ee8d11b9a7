"""Phi-3 (Abdin et al. 2024): Llama with fused query, key and value, and fused gate and up projections."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import Fused, WeightRule, architectures
from jaxft.models.families import llama
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.ignore("embd_pdrop")  # not used in transformers
    c.ignore("original_max_position_embeddings")  # read with the rotary positions
    rotary = read_rotary(c, c.hidden_size // c.num_attention_heads, partial=True)
    layer = llama.layer(c, rotary=rotary, window=c.get("sliding_window"))
    layer = replace(layer, dropout=c.resid_pdrop)
    return llama.stack(c, (layer,) * c.num_hidden_layers)


def rules(c: ConfigReader) -> list[WeightRule]:
    fused = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    return [rule for rule in llama.rules(c) if not rule.hf.endswith(fused)] + [
        WeightRule("layers.{i}.self_attn.qkv_proj", "layers.{i}.attn.qkv", Fused(("q", "k", "v"))),
        WeightRule("layers.{i}.mlp.gate_up_proj", "layers.{i}.mlp.gate_up", Fused(("gate", "up"))),
    ]


FAMILY = replace(llama.FAMILY, architectures=architectures("Phi3", llama.HEADS), spec=spec, rules=rules)
