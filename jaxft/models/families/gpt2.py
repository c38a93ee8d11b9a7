"""GPT-2 (Radford et al. 2019): a pre-norm decoder with learned positions, weights stored as (inputs, outputs)."""

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import decoder_head
from jaxft.models.checkpoint.weight_table import Family, Fused, WeightRule, architectures, conv1d, embedding, norm
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.spec import PRE_NORM, Layer, Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("scale_attn_weights", True, "unscaled attention is not implemented")
    c.expect("scale_attn_by_inverse_layer_idx", False, "scaling by layer number is not implemented")
    c.expect("add_cross_attention", False, "cross-attention is not implemented")
    c.ignore("reorder_and_upcast_attn")  # scores are always float32 here
    c.ignore("n_ctx", "summary_type", "summary_use_proj", "summary_activation")
    c.ignore("summary_proj_to_labels", "summary_first_dropout")  # of the double-heads model only
    ln = LayerNorm(c.layer_norm_epsilon)
    layer = Layer(
        Attention(c.n_head, c.n_head, c.quotient("n_embd", "n_head"), causal=True, dropout=c.attn_pdrop),
        Dense(c.get("n_inner", 4 * c.n_embd), c.activation_function),
        ln,
        PRE_NORM,
        c.resid_pdrop,
    )
    embed = Embed(c.vocab_size, c.n_positions, dropout=c.embd_pdrop)
    return Spec(c.n_embd, embed, (layer,) * c.n_layer, ln, c.n_positions, c.initializer_range, pool_token="last")


def rules(c: ConfigReader) -> list[WeightRule]:
    return [
        WeightRule("wte", "embed.tokens", embedding),
        WeightRule("wpe", "embed.positions", embedding),
        WeightRule("h.{i}.ln_1", "layers.{i}.norms.attn_in", norm),
        WeightRule("h.{i}.attn.c_attn", "layers.{i}.attn.qkv", Fused(("q", "k", "v"), transposed=False)),
        WeightRule("h.{i}.attn.c_proj", "layers.{i}.attn.o", conv1d),
        WeightRule("h.{i}.ln_2", "layers.{i}.norms.mlp_in", norm),
        WeightRule("h.{i}.mlp.c_fc", "layers.{i}.mlp.up", conv1d),
        WeightRule("h.{i}.mlp.c_proj", "layers.{i}.mlp.down", conv1d),
        WeightRule("ln_f", "norm", norm),
    ]


FAMILY = Family(
    "transformer.",
    architectures("GPT2", "none sequence-classification token-classification question-answering")
    | {"causal-lm": "GPT2LMHeadModel"},
    spec,
    rules,
    decoder_head("transformer.wte"),
    buffers=(r"h\.\d+\.attn\.(masked_)?bias",),
    other_heads=(r"lm_head\..*", r"score\..*", r"classifier\..*", r"qa_outputs\..*", r"multiple_choice_head\..*"),
)
