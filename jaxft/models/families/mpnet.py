"""MPNet (Song et al. 2020): an encoder with learned positions, whose scores also depend on learned distances."""

from dataclasses import replace

from jaxft.models.checkpoint.weight_table import (
    ENCODER_HEADS,
    WeightRule,
    architectures,
    distances,
    embedding,
    linear,
    norm,
)
from jaxft.models.families import roberta
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.layers.relative_bias import T5Buckets
from jaxft.models.spec import POST_NORM, Layer, Spec

FIRST = 2  # row of the position table that position 0 has, whatever the padding token's number


def spec(c):
    c.expect("relative_attention_num_buckets", 32, "transformers has 32 buckets, whatever it says")
    heads, rate, ln = c.num_attention_heads, c.hidden_dropout_prob, LayerNorm(c.layer_norm_eps)
    attention = Attention(
        heads,
        heads,
        c.quotient("hidden_size", "num_attention_heads"),
        causal=False,
        dropout=c.attention_probs_dropout_prob,
        distances=T5Buckets(heads, 32, 128, causal=False),
    )
    layer = Layer(attention, Dense(c.intermediate_size, c.hidden_act), ln, POST_NORM, rate)
    embed = Embed(c.vocab_size, c.max_position_embeddings, norm=ln, dropout=rate, offset=FIRST)
    layers, longest = (layer,) * c.num_hidden_layers, c.max_position_embeddings - FIRST
    return Spec(c.hidden_size, embed, layers, None, longest, c.initializer_range)


def rows(c):
    layer, ours = "encoder.layer.{i}.", "layers.{i}."
    return [
        WeightRule("embeddings.word_embeddings", "embed.tokens", embedding),
        WeightRule("embeddings.position_embeddings", "embed.positions", embedding),
        WeightRule("embeddings.LayerNorm", "embed.norm", norm),
        WeightRule("encoder.relative_attention_bias", "distances", distances),
        *(WeightRule(f"{layer}attention.attn.{x}", f"{ours}attn.{x}", linear) for x in "qkvo"),
        WeightRule(layer + "attention.LayerNorm", ours + "norms.attn_res", norm),
        WeightRule(layer + "intermediate.dense", ours + "mlp.up", linear),
        WeightRule(layer + "output.dense", ours + "mlp.down", linear),
        WeightRule(layer + "output.LayerNorm", ours + "norms.mlp_res", norm),
    ]


def head(c, kind, classes):
    """RoBERTa's, under MPNet's name."""
    part, rows, repeats = roberta.head(c, kind, classes)
    named = [row._replace(theirs=row.theirs.replace("roberta.", "mpnet.")) for row in rows]
    return part, named, {name: original.replace("roberta.", "mpnet.") for name, original in repeats.items()}


FAMILY = replace(
    roberta.FAMILY,
    prefix="mpnet.",
    architectures=architectures("MPNet", ENCODER_HEADS),
    spec=spec,
    rows=rows,
    head=head,
)
