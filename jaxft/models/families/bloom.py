"""BLOOM (Le Scao et al. 2022): a decoder with ALiBi in place of position embeddings."""

import math

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import decoder_head
from jaxft.models.checkpoint.weight_table import Family, Fused, WeightRule, architectures, embedding, linear, norm
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.spec import PRE_NORM, Layer, Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("apply_residual_connection_post_layernorm", False, "residual connections after norms are not implemented")
    c.ignore("slow_but_exact")  # tensor parallelism in PyTorch
    c.ignore("seq_length", "n_positions")  # ALiBi needs no position table
    attention = Attention(
        c.n_head,
        c.n_head,
        c.quotient("hidden_size", "n_head"),
        causal=True,
        dropout=c.attention_dropout,
        alibi_slopes=alibi_slopes(c.n_head),
    )
    ln = LayerNorm(c.layer_norm_epsilon)
    layer = Layer(attention, Dense(4 * c.hidden_size, "gelu_pytorch_tanh"), ln, PRE_NORM, c.hidden_dropout)
    return Spec(
        c.hidden_size,
        Embed(c.vocab_size, norm=ln),
        (layer,) * c.n_layer,
        ln,
        None,
        c.initializer_range,
        pool_token="last",
    )


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """ALiBi's slopes (Press et al. 2022, section 3): for 2^n heads, the powers of 2^(-8/2^n).

    For a number of heads between two powers of 2, the rest are every other slope of the larger one.
    """
    power = 2 ** int(math.log2(heads))
    regular = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    return tuple(regular + [2.0 ** (-4 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)])


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "h.{i}.", "layers.{i}."
    fused = Fused(("q", "k", "v"), groups=c.n_head)
    return [
        WeightRule("word_embeddings", "embed.tokens", embedding),
        WeightRule("word_embeddings_layernorm", "embed.norm", norm),
        WeightRule(hf + "input_layernorm", jaxft + "norms.attn_in", norm),
        WeightRule(hf + "self_attention.query_key_value", jaxft + "attn.qkv", fused),
        WeightRule(hf + "self_attention.dense", jaxft + "attn.o", linear),
        WeightRule(hf + "post_attention_layernorm", jaxft + "norms.mlp_in", norm),
        WeightRule(hf + "mlp.dense_h_to_4h", jaxft + "mlp.up", linear),
        WeightRule(hf + "mlp.dense_4h_to_h", jaxft + "mlp.down", linear),
        WeightRule("ln_f", "norm", norm),
    ]


FAMILY = Family(
    "transformer.",
    architectures("Bloom", "none sequence-classification token-classification question-answering causal-lm"),
    spec,
    rules,
    decoder_head("transformer.word_embeddings"),
    other_heads=(r"lm_head\..*", r"score\..*", r"classifier\..*", r"qa_outputs\..*"),
)
