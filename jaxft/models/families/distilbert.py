"""DistilBERT (Sanh et al. 2019): BERT without text types and pooler."""

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import masked_lm_head
from jaxft.models.checkpoint.weight_table import (
    ENCODER_HEADS,
    Family,
    HeadRules,
    WeightRule,
    architectures,
    embedding,
    linear,
    norm,
)
from jaxft.models.heads import TEXT_LEVEL, Classifier, Pooler, Transform
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.spec import POST_NORM, Layer, Spec

NORM = LayerNorm(1e-12)


def spec(c: ConfigReader) -> Spec:
    c.ignore("sinusoidal_pos_embds")  # says how the stored positions were made
    c.ignore("qa_dropout", "seq_classif_dropout")  # read with the heads
    attention = Attention(c.n_heads, c.n_heads, c.quotient("dim", "n_heads"), causal=False, dropout=c.attention_dropout)
    layer = Layer(
        attention, Dense(c.hidden_dim, c.activation), NORM, POST_NORM, c.dropout, dropout_places=frozenset(["mlp_out"])
    )
    embed = Embed(c.vocab_size, c.max_position_embeddings, norm=NORM, dropout=c.dropout)
    return Spec(c.dim, embed, (layer,) * c.n_layers, None, c.max_position_embeddings, c.initializer_range)


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "transformer.layer.{i}.", "layers.{i}."
    return [
        WeightRule("embeddings.word_embeddings", "embed.tokens", embedding),
        WeightRule("embeddings.position_embeddings", "embed.positions", embedding),
        WeightRule("embeddings.LayerNorm", "embed.norm", norm),
        WeightRule(hf + "attention.q_lin", jaxft + "attn.q", linear),
        WeightRule(hf + "attention.k_lin", jaxft + "attn.k", linear),
        WeightRule(hf + "attention.v_lin", jaxft + "attn.v", linear),
        WeightRule(hf + "attention.out_lin", jaxft + "attn.o", linear),
        WeightRule(hf + "sa_layer_norm", jaxft + "norms.attn_res", norm),
        WeightRule(hf + "ffn.lin1", jaxft + "mlp.up", linear),
        WeightRule(hf + "ffn.lin2", jaxft + "mlp.down", linear),
        WeightRule(hf + "output_layer_norm", jaxft + "norms.mlp_res", norm),
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    tied = c.get("tie_word_embeddings", True)  # read for every head, so that it never counts as unread
    if kind == "none":
        return HeadRules(None)
    if kind in TEXT_LEVEL:
        rules = [
            WeightRule("pre_classifier", "head.pooler.dense", linear),
            WeightRule("classifier", "head.out", linear),
        ]
        return HeadRules(Classifier(classes, Pooler("relu"), dropout=c.seq_classif_dropout), rules)
    if kind == "token-classification":
        return HeadRules(Classifier(classes, dropout=c.dropout), [WeightRule("classifier", "head.out", linear)])
    if kind == "question-answering":
        return HeadRules(Classifier(classes, dropout=c.qa_dropout), [WeightRule("qa_outputs", "head.out", linear)])
    return masked_lm_head(
        tied,
        Transform(c.activation, NORM),
        tokens="distilbert.embeddings.word_embeddings",
        dense="vocab_transform",
        layer_norm="vocab_layer_norm",
        output="vocab_projector",
        bias="vocab_projector.bias",
    )


FAMILY = Family(
    "distilbert.",
    architectures("DistilBert", ENCODER_HEADS),
    spec,
    rules,
    head,
    buffers=(r"embeddings\.position_ids",),
    other_heads=(r"vocab_.*", r"pre_classifier\..*", r"classifier\..*", r"qa_outputs\..*"),
)
