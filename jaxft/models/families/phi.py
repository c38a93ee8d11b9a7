"""Phi (Gunasekar et al. 2023): parallel attention and MLP after one layer norm, partial rotary positions, biases
in all linear maps."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import HeadRules, WeightRule, architectures, embedding, linear, norm, tensor
from jaxft.models.families import llama
from jaxft.models.heads import LanguageModel
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, LayerNorm
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import Layer, Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("qk_layernorm", False, "QK norms are not implemented here")
    heads, head_dim = c.num_attention_heads, c.quotient("hidden_size", "num_attention_heads")
    kv_heads = heads // c.quotient("num_attention_heads", "num_key_value_heads")
    attention = Attention(
        heads,
        kv_heads,
        head_dim,
        causal=True,
        rotary=read_rotary(c, head_dim, partial=True),
        dropout=c.attention_dropout,
    )
    layer = Layer(
        attention,
        Dense(c.intermediate_size, c.hidden_act),
        LayerNorm(c.layer_norm_eps),
        frozenset(["attn_in"]),
        c.resid_pdrop,
        parallel=True,
    )
    return llama.stack(c, (layer,) * c.num_hidden_layers, dropout=c.embd_pdrop)


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "layers.{i}.", "layers.{i}."
    return [
        WeightRule("embed_tokens", "embed.tokens", embedding),
        WeightRule(hf + "input_layernorm", jaxft + "norms.attn_in", norm),
        WeightRule(hf + "self_attn.q_proj", jaxft + "attn.q", linear),
        WeightRule(hf + "self_attn.k_proj", jaxft + "attn.k", linear),
        WeightRule(hf + "self_attn.v_proj", jaxft + "attn.v", linear),
        WeightRule(hf + "self_attn.dense", jaxft + "attn.o", linear),
        WeightRule(hf + "mlp.fc1", jaxft + "mlp.up", linear),
        WeightRule(hf + "mlp.fc2", jaxft + "mlp.down", linear),
        WeightRule("final_layernorm", "norm", norm),
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    if kind != "causal-lm":
        return llama.head(c, kind, classes)
    c.expect("tie_word_embeddings", False, "the output matrix is separate")
    rules = [WeightRule("lm_head", "head.table", embedding), WeightRule("lm_head.bias", "head.bias", tensor)]
    return HeadRules(LanguageModel(False, True), rules)


FAMILY = replace(llama.FAMILY, architectures=architectures("Phi", llama.HEADS), spec=spec, rules=rules, head=head)
