"""Falcon (Almazrouei et al. 2023): parallel attention and MLP, multi-query or grouped-query attention, rotary positions
or ALiBi."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import decoder_head
from jaxft.models.checkpoint.weight_table import Family, Fused, WeightRule, architectures, embedding, linear, norm
from jaxft.models.families.bloom import alibi_slopes
from jaxft.models.layers.attention import Attention, AttentionLayer
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.layers.context import Context
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import Layer, Spec


@dataclass(frozen=True)
class Bf16ALiBi(Attention):
    """ALiBi whose slopes, positions and products are rounded to bfloat16 in any dtype, and then scaled."""

    def build(self, width: int) -> "Bf16ALiBiLayer":
        return Bf16ALiBiLayer(self, width)


class Bf16ALiBiLayer(AttentionLayer):
    def attn_bias(self, q_bthd: jax.Array, k_bshd: jax.Array, context: Context, key: jax.Array | None) -> jax.Array:
        rounded = partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=7)
        alibi_slopes = rounded(jnp.array(self.part.alibi_slopes, float)).reshape(1, self.part.kv_heads, -1, 1)
        places = rounded(context.keys.positions[:, None, None, :].astype(float))
        return rounded(alibi_slopes * places) * self.part.softmax.scale


def spec(c: ConfigReader) -> Spec:
    c.ignore("max_position_embeddings")  # neither rotary positions nor ALiBi need a table
    heads, head_dim = c.num_attention_heads, c.quotient("hidden_size", "num_attention_heads")
    if c.alibi:
        c.ignore("rope_parameters")
    attention = (Bf16ALiBi if c.alibi else Attention)(
        heads,
        key_heads(c),
        head_dim,
        causal=True,
        rotary=None if c.alibi else read_rotary(c, head_dim),
        alibi_slopes=alibi_slopes(heads) if c.alibi else None,
        bias=frozenset("qkvo" if c.bias else ""),
        dropout=c.attention_dropout,
    )
    ln = LayerNorm(c.layer_norm_epsilon)
    layer = Layer(
        attention,
        Dense(c.get("ffn_hidden_size", 4 * c.hidden_size), c.activation, c.bias),
        ln,
        frozenset(norms(c).values()),
        c.hidden_dropout,
        parallel=parallel(c),
    )
    embed = Embed(c.vocab_size)
    return Spec(c.hidden_size, embed, (layer,) * c.num_hidden_layers, ln, None, c.initializer_range, pool_token="last")


def key_heads(c: ConfigReader) -> int:
    if c.new_decoder_architecture:
        return c.get("num_kv_heads", c.num_attention_heads)
    c.ignore("num_kv_heads")
    return 1 if c.multi_query else c.num_attention_heads


def parallel(c: ConfigReader) -> bool:
    return c.new_decoder_architecture or c.parallel_attn


def norms(c: ConfigReader) -> dict[str, str]:
    """Module in the checkpoint -> place of the norm."""
    two = c.get("num_ln_in_parallel_attn", 2 if c.new_decoder_architecture else 1)
    if c.new_decoder_architecture and two == 2:
        return {"ln_attn": "attn_in", "ln_mlp": "mlp_in"}
    if parallel(c):
        return {"input_layernorm": "attn_in"}
    return {"input_layernorm": "attn_in", "post_attention_layernorm": "mlp_in"}


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "h.{i}.", "layers.{i}."
    # Multi-query: all queries, then the key, then the value. Otherwise each group of queries with its key and value.
    groups = 1 if c.multi_query and not c.new_decoder_architecture else key_heads(c)
    return [
        WeightRule("word_embeddings", "embed.tokens", embedding),
        *(WeightRule(hf + name, jaxft + "norms." + place, norm) for name, place in norms(c).items()),
        WeightRule(hf + "self_attention.query_key_value", jaxft + "attn.qkv", Fused(("q", "k", "v"), groups=groups)),
        WeightRule(hf + "self_attention.dense", jaxft + "attn.o", linear),
        WeightRule(hf + "mlp.dense_h_to_4h", jaxft + "mlp.up", linear),
        WeightRule(hf + "mlp.dense_4h_to_h", jaxft + "mlp.down", linear),
        WeightRule("ln_f", "norm", norm),
    ]


FAMILY = Family(
    "transformer.",
    architectures("Falcon", "none sequence-classification token-classification question-answering causal-lm"),
    spec,
    rules,
    decoder_head("transformer.word_embeddings"),
    other_heads=(r"lm_head\..*", r"score\..*", r"classifier\..*", r"qa_outputs\..*"),
)
