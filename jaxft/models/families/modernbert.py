"""ModernBERT (Warner et al. 2024): a pre-norm encoder with rotary positions, gated MLPs, and sliding windows in both
directions in most layers."""

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import masked_lm_head
from jaxft.models.checkpoint.weight_table import (
    ENCODER_HEADS,
    Family,
    Fused,
    HeadRules,
    WeightRule,
    architectures,
    embedding,
    linear,
    norm,
)
from jaxft.models.heads import TEXT_LEVEL, Classifier, Pooler, Transform
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Embed, Gated, LayerNorm
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import PRE_NORM, Layer, Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("mlp_dropout", 0.0, "dropout in the MLP is not implemented")
    c.ignore("max_position_embeddings")  # rotary positions need no table
    c.ignore("initializer_cutoff_factor", "deterministic_flash_attn", "sparse_prediction", "sparse_pred_ignore_index")
    c.ignore("classifier_pooling", "classifier_bias", "classifier_activation", "decoder_bias")  # read with the heads
    heads, head_dim, ln = c.num_attention_heads, c.quotient("hidden_size", "num_attention_heads"), norm_of(c)

    def layer(number: int, kind: str) -> Layer:
        attention = Attention(
            heads,
            heads,
            head_dim,
            causal=False,
            rotary=read_rotary(c, head_dim, kind),
            bias=frozenset("qkvo" if c.attention_bias else ""),
            dropout=c.attention_dropout,
            window=c.local_attention // 2 + 1 if kind == "sliding_attention" else None,
        )
        norms = PRE_NORM if number else PRE_NORM - {"attn_in"}  # the embeddings are already normed
        return Layer(attention, Gated(c.intermediate_size, c.hidden_activation, c.mlp_bias), ln, norms)

    layers = tuple(layer(number, kind) for number, kind in enumerate(c.of_layers("layer_types")))
    embed = Embed(c.vocab_size, norm=ln, dropout=c.embedding_dropout)
    return Spec(c.hidden_size, embed, layers, ln, None, c.initializer_range)


def norm_of(c: ConfigReader) -> LayerNorm:
    return LayerNorm(c.norm_eps, bias=c.norm_bias)


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "layers.{i}.", "layers.{i}."
    return [
        WeightRule("embeddings.tok_embeddings", "embed.tokens", embedding),
        WeightRule("embeddings.norm", "embed.norm", norm),
        WeightRule(hf + "attn_norm", jaxft + "norms.attn_in", norm),
        WeightRule(hf + "attn.Wqkv", jaxft + "attn.qkv", Fused(("q", "k", "v"))),
        WeightRule(hf + "attn.Wo", jaxft + "attn.o", linear),
        WeightRule(hf + "mlp_norm", jaxft + "norms.mlp_in", norm),
        WeightRule(hf + "mlp.Wi", jaxft + "mlp.gate_up", Fused(("gate", "up"))),
        WeightRule(hf + "mlp.Wo", jaxft + "mlp.down", linear),
        WeightRule("final_norm", "norm", norm),
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    tied = c.get("tie_word_embeddings", True)  # read for every head, so that it never counts as unread
    if kind == "none":
        return HeadRules(None)
    dense, act, ln = c.classifier_bias, c.classifier_activation, norm_of(c)
    if kind == "masked-lm":
        return masked_lm_head(
            tied,
            Transform(act, ln, bias=dense),
            tokens="model.embeddings.tok_embeddings",
            dense="head.dense",
            layer_norm="head.norm",
            output="decoder",
            bias="decoder.bias",
            has_bias=c.decoder_bias,
        )
    mean = kind in TEXT_LEVEL and c.classifier_pooling == "mean"
    rules = [
        WeightRule("head.dense", "head.pooler.dense", linear),
        WeightRule("head.norm", "head.pooler.norm", norm),
        WeightRule("classifier", "head.out", linear),
    ]
    return HeadRules(
        Classifier(classes, Pooler(act, bias=dense, norm=ln), dropout=c.classifier_dropout, mean=mean), rules
    )


FAMILY = Family(
    "model.",
    architectures("ModernBert", ENCODER_HEADS),
    spec,
    rules,
    head,
    other_heads=(r"head\..*", r"decoder\..*", r"classifier\..*"),
)
