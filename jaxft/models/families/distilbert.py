"""DistilBERT (Sanh et al. 2019): BERT without text types and pooler."""

from jaxft.models.checkpoint.weight_table import (
    ENCODER_HEADS,
    Family,
    WeightRule,
    architectures,
    embedding,
    linear,
    masked_lm_head,
    norm,
)
from jaxft.models.heads import TEXT_LEVEL, Classifier, Pooler, Transform
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.spec import POST_NORM, Layer, Spec

NORM = LayerNorm(1e-12)


def spec(c):
    c.ignore("sinusoidal_pos_embds")  # only how the stored positions were made
    c.ignore("qa_dropout", "seq_classif_dropout")  # of heads
    attention = Attention(c.n_heads, c.n_heads, c.quotient("dim", "n_heads"), causal=False, dropout=c.attention_dropout)
    layer = Layer(
        attention, Dense(c.hidden_dim, c.activation), NORM, POST_NORM, c.dropout, dropout_places=frozenset(["mlp_out"])
    )
    embed = Embed(c.vocab_size, c.max_position_embeddings, norm=NORM, dropout=c.dropout)
    return Spec(c.dim, embed, (layer,) * c.n_layers, None, c.max_position_embeddings, c.initializer_range)


def rows(c):
    layer, ours = "transformer.layer.{i}.", "layers.{i}."
    return [
        WeightRule("embeddings.word_embeddings", "embed.tokens", embedding),
        WeightRule("embeddings.position_embeddings", "embed.positions", embedding),
        WeightRule("embeddings.LayerNorm", "embed.norm", norm),
        WeightRule(layer + "attention.q_lin", ours + "attn.q", linear),
        WeightRule(layer + "attention.k_lin", ours + "attn.k", linear),
        WeightRule(layer + "attention.v_lin", ours + "attn.v", linear),
        WeightRule(layer + "attention.out_lin", ours + "attn.o", linear),
        WeightRule(layer + "sa_layer_norm", ours + "norms.attn_res", norm),
        WeightRule(layer + "ffn.lin1", ours + "mlp.up", linear),
        WeightRule(layer + "ffn.lin2", ours + "mlp.down", linear),
        WeightRule(layer + "output_layer_norm", ours + "norms.mlp_res", norm),
    ]


def head(c, kind, classes):
    tied = c.get("tie_word_embeddings", True)  # read for every head: where there is no output matrix it says nothing
    if kind == "none":
        return None, [], {}
    if kind in TEXT_LEVEL:
        rows = [WeightRule("pre_classifier", "head.pooler.dense", linear), WeightRule("classifier", "head.out", linear)]
        return Classifier(classes, Pooler("relu"), dropout=c.seq_classif_dropout), rows, {}
    if kind == "token-classification":
        return Classifier(classes, dropout=c.dropout), [WeightRule("classifier", "head.out", linear)], {}
    if kind == "question-answering":
        return Classifier(classes, dropout=c.qa_dropout), [WeightRule("qa_outputs", "head.out", linear)], {}
    return masked_lm_head(
        tied,
        Transform(c.activation, NORM),
        tokens="distilbert.embeddings.word_embeddings",
        dense="vocab_transform",
        behind="vocab_layer_norm",
        output="vocab_projector",
        bias="vocab_projector.bias",
    )


FAMILY = Family(
    "distilbert.",
    architectures("DistilBert", ENCODER_HEADS),
    spec,
    rows,
    head,
    buffers=(r"embeddings\.position_ids",),
    other_heads=(r"vocab_.*", r"pre_classifier\..*", r"classifier\..*", r"qa_outputs\..*"),
)
