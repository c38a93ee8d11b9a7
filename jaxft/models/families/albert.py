"""ALBERT (Lan et al. 2020): BERT whose layers share their weights, with embeddings of a width of their own."""

from dataclasses import replace

from jaxft.models.checkpoint.weight_table import (
    ENCODER_HEADS,
    WeightRule,
    architectures,
    linear,
    masked_lm_head,
    norm,
    pretraining_head,
)
from jaxft.models.families import bert
from jaxft.models.heads import TEXT_LEVEL, Classifier, Pooler, Transform
from jaxft.models.layers.basic import LayerNorm, Projection


def spec(c):
    c.ignore("down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks")  # of the first checkpoints
    c.ignore("classifier_dropout_prob")  # of heads
    c.expect("inner_group_num", 1, "several layers in a group are not implemented")
    c.expect("is_decoder", False, "attention is never causal, whatever this says")
    groups, num_repeats = c.num_hidden_groups, c.quotient("num_hidden_layers", "num_hidden_groups")
    same = bert.spec(c)
    layer = replace(same.layers[0], num_repeats=num_repeats, dropout_places=frozenset(["attn_out"]))
    embed = replace(same.embed, project=Projection(c.embedding_size))
    return replace(same, embed=embed, layers=(layer,) * groups)


def rows(c):
    layer, ours = "encoder.albert_layer_groups.{i}.albert_layers.0.", "layers.{i}."
    return [
        *(row for row in bert.rows(c) if "{i}" not in row.theirs),
        WeightRule("encoder.embedding_hidden_mapping_in", "embed.project", linear),
        WeightRule(layer + "attention.query", ours + "attn.q", linear),
        WeightRule(layer + "attention.key", ours + "attn.k", linear),
        WeightRule(layer + "attention.value", ours + "attn.v", linear),
        WeightRule(layer + "attention.dense", ours + "attn.o", linear),
        WeightRule(layer + "attention.LayerNorm", ours + "norms.attn_res", norm),
        WeightRule(layer + "ffn", ours + "mlp.up", linear),
        WeightRule(layer + "ffn_output", ours + "mlp.down", linear),
        WeightRule(layer + "full_layer_layer_norm", ours + "norms.mlp_res", norm),
    ]


def head(c, kind, classes):
    tied = c.get("tie_word_embeddings", True)  # read for every head: where there is no output matrix it says nothing
    pooler = WeightRule("albert.pooler", "head.dense", linear)
    if kind == "none":
        return Pooler("tanh"), [pooler], {}
    rate = c.get("classifier_dropout_prob", 0.1)
    if kind in TEXT_LEVEL:
        rows = [pooler._replace(ours="head.pooler.dense"), WeightRule("classifier", "head.out", linear)]
        return Classifier(classes, Pooler("tanh"), dropout=rate), rows, {}
    if kind == "token-classification":
        return Classifier(classes, dropout=rate), [WeightRule("classifier", "head.out", linear)], {}
    if kind == "question-answering":
        return bert.head(c, kind, classes)
    masked_lm = masked_lm_head(
        tied,
        Transform(c.hidden_act, LayerNorm(c.layer_norm_eps), c.embedding_size),
        tokens="albert.embeddings.word_embeddings",
        dense="predictions.dense",
        behind="predictions.LayerNorm",
        output="predictions.decoder",
        bias="predictions.bias",
    )
    if kind == "pretraining":
        pair = Classifier(classes, Pooler("tanh"), dropout=rate)
        return pretraining_head(masked_lm, pair, pooler.theirs, "sop_classifier.classifier")
    return masked_lm


FAMILY = replace(
    bert.FAMILY,
    prefix="albert.",
    architectures=architectures("Albert", ENCODER_HEADS + " pretraining"),
    spec=spec,
    rows=rows,
    head=head,
    other_heads=(r"predictions\..*", r"sop_classifier\..*", r"classifier\..*", r"qa_outputs\..*", r"pooler\..*"),
)
