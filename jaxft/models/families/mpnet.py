"""MPNet (Song et al. 2020): an encoder with learned positions and learned relative biases."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import (
    ENCODER_HEADS,
    HeadRules,
    WeightRule,
    architectures,
    embedding,
    linear,
    norm,
    rel_bias,
)
from jaxft.models.families import roberta
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.layers.relative_bias import T5Buckets
from jaxft.models.spec import POST_NORM, Layer, Spec

FIRST = 2  # index of position 0 in the position table, whatever `pad_token_id` is


def spec(c: ConfigReader) -> Spec:
    c.expect("relative_attention_num_buckets", 32, "transformers always uses 32 buckets")
    heads, rate, ln = c.num_attention_heads, c.hidden_dropout_prob, LayerNorm(c.layer_norm_eps)
    attention = Attention(
        heads,
        heads,
        c.quotient("hidden_size", "num_attention_heads"),
        causal=False,
        dropout=c.attention_probs_dropout_prob,
        rel_bias=T5Buckets(heads, 32, 128, causal=False),
    )
    layer = Layer(attention, Dense(c.intermediate_size, c.hidden_act), ln, POST_NORM, rate)
    embed = Embed(c.vocab_size, c.max_position_embeddings, norm=ln, dropout=rate, offset=FIRST)
    layers, longest = (layer,) * c.num_hidden_layers, c.max_position_embeddings - FIRST
    return Spec(c.hidden_size, embed, layers, None, longest, c.initializer_range)


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "encoder.layer.{i}.", "layers.{i}."
    return [
        WeightRule("embeddings.word_embeddings", "embed.tokens", embedding),
        WeightRule("embeddings.position_embeddings", "embed.positions", embedding),
        WeightRule("embeddings.LayerNorm", "embed.norm", norm),
        WeightRule("encoder.relative_attention_bias", "rel_bias", rel_bias),
        *(WeightRule(f"{hf}attention.attn.{x}", f"{jaxft}attn.{x}", linear) for x in "qkvo"),
        WeightRule(hf + "attention.LayerNorm", jaxft + "norms.attn_res", norm),
        WeightRule(hf + "intermediate.dense", jaxft + "mlp.up", linear),
        WeightRule(hf + "output.dense", jaxft + "mlp.down", linear),
        WeightRule(hf + "output.LayerNorm", jaxft + "norms.mlp_res", norm),
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    """RoBERTa's, under MPNet's names."""
    part, rules, ties = roberta.head(c, kind, classes)
    named = [rule._replace(hf=rule.hf.replace("roberta.", "mpnet.")) for rule in rules]
    return HeadRules(part, named, {name: original.replace("roberta.", "mpnet.") for name, original in ties.items()})


FAMILY = replace(
    roberta.FAMILY,
    prefix="mpnet.",
    architectures=architectures("MPNet", ENCODER_HEADS),
    spec=spec,
    rules=rules,
    head=head,
)
