"""GPT-NeoX (Black et al. 2022; Pythia: Biderman et al. 2023): parallel attention and MLP, each after a layer norm,
partial rotary positions, and query, key and value of each head adjacent in one matrix."""

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import decoder_head
from jaxft.models.checkpoint.weight_table import Family, Fused, WeightRule, architectures, embedding, linear, norm
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import PRE_NORM, Layer, Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("is_decoder", False, "attention is always causal in transformers")
    c.ignore("max_position_embeddings")  # rotary positions need no table
    heads, head_dim = c.num_attention_heads, c.quotient("hidden_size", "num_attention_heads")
    attention = Attention(
        heads,
        heads,
        head_dim,
        causal=True,
        rotary=read_rotary(c, head_dim, partial=True),
        bias=frozenset("qkvo" if c.attention_bias else ""),
        dropout=c.attention_dropout,
    )
    ln = LayerNorm(c.layer_norm_eps)
    mlp = Dense(c.intermediate_size, c.hidden_act)
    layer = Layer(attention, mlp, ln, PRE_NORM, c.hidden_dropout, parallel=c.use_parallel_residual)
    embed = Embed(c.vocab_size, dropout=c.hidden_dropout)
    return Spec(c.hidden_size, embed, (layer,) * c.num_hidden_layers, ln, None, c.initializer_range, pool_token="last")


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "layers.{i}.", "layers.{i}."
    fused = Fused(("q", "k", "v"), groups=c.num_attention_heads)
    return [
        WeightRule("embed_in", "embed.tokens", embedding),
        WeightRule(hf + "input_layernorm", jaxft + "norms.attn_in", norm),
        WeightRule(hf + "attention.query_key_value", jaxft + "attn.qkv", fused),
        WeightRule(hf + "attention.dense", jaxft + "attn.o", linear),
        WeightRule(hf + "post_attention_layernorm", jaxft + "norms.mlp_in", norm),
        WeightRule(hf + "mlp.dense_h_to_4h", jaxft + "mlp.up", linear),
        WeightRule(hf + "mlp.dense_4h_to_h", jaxft + "mlp.down", linear),
        WeightRule("final_layer_norm", "norm", norm),
    ]


FAMILY = Family(
    "gpt_neox.",
    architectures("GPTNeoX", "none sequence-classification token-classification question-answering causal-lm"),
    spec,
    rules,
    decoder_head("gpt_neox.embed_in", "embed_out", tied=False),
    buffers=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    other_heads=(r"embed_out\..*", r"score\..*", r"classifier\..*", r"qa_outputs\..*"),
)
