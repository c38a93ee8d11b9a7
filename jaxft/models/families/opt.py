"""OPT (Zhang et al. 2022): a decoder with learned positions, which begin at row 2 of the table."""

from dataclasses import dataclass

import jax
from flax import nnx

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import decoder_head
from jaxft.models.checkpoint.weight_table import Family, WeightRule, architectures, embedding, linear, norm
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm, Linear, Projection
from jaxft.models.spec import POST_NORM, PRE_NORM, Layer, Spec

OFFSET = 2  # index of position 0 in the position table


@dataclass(frozen=True)
class FinalProjection:
    """The final norm, if there is one, and a linear map to the width of the embeddings."""

    norm: LayerNorm | None
    outputs: int

    def build(self, width: int) -> "FinalProjectionLayer":
        return FinalProjectionLayer(self, width)


class FinalProjectionLayer(nnx.Module):
    def __init__(self, part: FinalProjection, width: int):
        self.norm = part.norm.build(width) if part.norm else nnx.data(None)
        self.map = Linear(width, part.outputs, ("embed", None), bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.map(x if self.norm is None else self.norm(x))


def spec(c: ConfigReader) -> Spec:
    c.ignore("layerdrop")  # used in training only
    c.ignore("init_std")
    affine, bias = c.layer_norm_elementwise_affine, frozenset("qkvo" if c.enable_bias else "")
    head_dim = c.quotient("hidden_size", "num_attention_heads")
    attention = Attention(
        c.num_attention_heads, c.num_attention_heads, head_dim, causal=True, bias=bias, dropout=c.attention_dropout
    )
    ln = LayerNorm(1e-5, bias=affine, scale=affine)
    before = c.do_layer_norm_before
    layer = Layer(
        attention,
        Dense(c.ffn_dim, c.activation_function, c.enable_bias),
        ln,
        PRE_NORM if before else POST_NORM,
        c.dropout,
    )
    last = ln if before and not c.get("_remove_final_layer_norm", False) else None
    final_norm: LayerNorm | FinalProjection | None = last
    inner, project = c.word_embed_proj_dim, None
    if inner != c.hidden_size:
        final_norm, project = FinalProjection(last, inner), Projection(inner, bias=False, first=True)
    embed = Embed(c.vocab_size, c.max_position_embeddings + OFFSET, offset=OFFSET, project=project)
    layers = (layer,) * c.num_hidden_layers
    return Spec(
        c.hidden_size,
        embed,
        layers,
        final_norm,
        c.max_position_embeddings,
        c.init_std,
        pool_token="last",
        output_width=inner,
    )


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "decoder.layers.{i}.", "layers.{i}."
    places = ("attn_in", "mlp_in") if c.do_layer_norm_before else ("attn_res", "mlp_res")
    return [
        WeightRule("decoder.embed_tokens", "embed.tokens", embedding),
        WeightRule("decoder.embed_positions", "embed.positions", embedding),
        WeightRule(hf + "self_attn_layer_norm", jaxft + "norms." + places[0], norm),
        WeightRule(hf + "self_attn.q_proj", jaxft + "attn.q", linear),
        WeightRule(hf + "self_attn.k_proj", jaxft + "attn.k", linear),
        WeightRule(hf + "self_attn.v_proj", jaxft + "attn.v", linear),
        WeightRule(hf + "self_attn.out_proj", jaxft + "attn.o", linear),
        WeightRule(hf + "final_layer_norm", jaxft + "norms." + places[1], norm),
        WeightRule(hf + "fc1", jaxft + "mlp.up", linear),
        WeightRule(hf + "fc2", jaxft + "mlp.down", linear),
        WeightRule("decoder.final_layer_norm", "norm" if c.word_embed_proj_dim == c.hidden_size else "norm.norm", norm),
        WeightRule("decoder.project_in", "embed.project", linear),
        WeightRule("decoder.project_out", "norm.map", linear),
    ]


FAMILY = Family(
    "model.",
    architectures("OPT", "none sequence-classification question-answering causal-lm"),
    spec,
    rules,
    decoder_head("model.decoder.embed_tokens"),
    other_heads=(r"lm_head\..*", r"score\..*", r"qa_outputs\..*"),
)
