"""Phi (Gunasekar et al. 2023): attention and MLP side by side behind one layer norm, rotary positions of a part of each
head, biases everywhere."""

from dataclasses import replace

from jaxft.models.checkpoint.weight_table import WeightRule, architectures, embedding, linear, norm, tensor
from jaxft.models.families import llama
from jaxft.models.heads import LanguageModel
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, LayerNorm
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import Layer


def spec(c):
    c.expect("qk_layernorm", False, "norms of query and key heads are not implemented here")
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


def rows(c):
    layer, ours = "layers.{i}.", "layers.{i}."
    return [
        WeightRule("embed_tokens", "embed.tokens", embedding),
        WeightRule(layer + "input_layernorm", ours + "norms.attn_in", norm),
        WeightRule(layer + "self_attn.q_proj", ours + "attn.q", linear),
        WeightRule(layer + "self_attn.k_proj", ours + "attn.k", linear),
        WeightRule(layer + "self_attn.v_proj", ours + "attn.v", linear),
        WeightRule(layer + "self_attn.dense", ours + "attn.o", linear),
        WeightRule(layer + "mlp.fc1", ours + "mlp.up", linear),
        WeightRule(layer + "mlp.fc2", ours + "mlp.down", linear),
        WeightRule("final_layernorm", "norm", norm),
    ]


def head(c, kind, classes):
    if kind != "causal-lm":
        return llama.FAMILY.head(c, kind, classes)
    c.expect("tie_word_embeddings", False, "the output matrix is one of its own")
    rows = [WeightRule("lm_head", "head.table", embedding), WeightRule("lm_head.bias", "head.bias", tensor)]
    return LanguageModel(False, True), rows, {}


FAMILY = replace(llama.FAMILY, architectures=architectures("Phi", llama.HEADS), spec=spec, rows=rows, head=head)
