"""GPT-Neo (Black et al. 2021): GPT-2 with unscaled scores and with sliding windows in some layers."""

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import decoder_head
from jaxft.models.checkpoint.weight_table import Family, WeightRule, architectures, embedding, linear, norm
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.spec import PRE_NORM, Layer, Spec


def spec(c: ConfigReader) -> Spec:
    windows = {"global": None, "local": c.window_size}
    ln = LayerNorm(c.layer_norm_epsilon)

    def layer(window):
        attention = Attention(
            c.num_heads,
            c.num_heads,
            c.quotient("hidden_size", "num_heads"),
            causal=True,
            bias=frozenset("o"),
            dropout=c.attention_dropout,
            scale=1.0,
            window=window,
        )
        mlp = Dense(c.get("intermediate_size", 4 * c.hidden_size), c.activation_function)
        return Layer(attention, mlp, ln, PRE_NORM, c.resid_dropout)

    c.ignore("attention_types")  # a short form of `attention_layers`
    kinds = c.of_layers("attention_layers", "num_layers")
    embed = Embed(c.vocab_size, c.max_position_embeddings, dropout=c.embed_dropout)
    layers = tuple(layer(windows[kind]) for kind in kinds)
    return Spec(c.hidden_size, embed, layers, ln, c.max_position_embeddings, c.initializer_range, pool_token="last")


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "h.{i}.", "layers.{i}."
    return [
        WeightRule("wte", "embed.tokens", embedding),
        WeightRule("wpe", "embed.positions", embedding),
        WeightRule(hf + "ln_1", jaxft + "norms.attn_in", norm),
        WeightRule(hf + "attn.attention.q_proj", jaxft + "attn.q", linear),
        WeightRule(hf + "attn.attention.k_proj", jaxft + "attn.k", linear),
        WeightRule(hf + "attn.attention.v_proj", jaxft + "attn.v", linear),
        WeightRule(hf + "attn.attention.out_proj", jaxft + "attn.o", linear),
        WeightRule(hf + "ln_2", jaxft + "norms.mlp_in", norm),
        WeightRule(hf + "mlp.c_fc", jaxft + "mlp.up", linear),
        WeightRule(hf + "mlp.c_proj", jaxft + "mlp.down", linear),
        WeightRule("ln_f", "norm", norm),
    ]


FAMILY = Family(
    "transformer.",
    architectures("GPTNeo", "none sequence-classification token-classification question-answering causal-lm"),
    spec,
    rules,
    decoder_head("transformer.wte"),
    buffers=(r"h\.\d+\.attn\.attention\.(masked_)?bias",),
    other_heads=(r"lm_head\..*", r"score\..*", r"classifier\..*", r"qa_outputs\..*"),
)
