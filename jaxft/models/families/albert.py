"""ALBERT (Lan et al. 2020): BERT with weights shared among layers and embeddings of a separate width."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import masked_lm_head, pretraining_head
from jaxft.models.checkpoint.weight_table import ENCODER_HEADS, HeadRules, WeightRule, architectures, linear, norm
from jaxft.models.families import bert
from jaxft.models.heads import TEXT_LEVEL, Classifier, Pooler, Transform
from jaxft.models.layers.basic import LayerNorm, Projection
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.ignore("down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks")  # without effect
    c.ignore("classifier_dropout_prob")  # read with the heads
    c.expect("inner_group_num", 1, "several layers in a group are not implemented")
    c.expect("is_decoder", False, "attention is never causal in transformers")
    groups, num_repeats = c.num_hidden_groups, c.quotient("num_hidden_layers", "num_hidden_groups")
    same = bert.spec(c)
    layer = replace(same.layers[0], num_repeats=num_repeats, dropout_places=frozenset(["attn_out"]))
    embed = replace(same.embed, project=Projection(c.embedding_size))
    return replace(same, embed=embed, layers=(layer,) * groups)


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "encoder.albert_layer_groups.{i}.albert_layers.0.", "layers.{i}."
    return [
        *(rule for rule in bert.rules(c) if "{i}" not in rule.hf),
        WeightRule("encoder.embedding_hidden_mapping_in", "embed.project", linear),
        WeightRule(hf + "attention.query", jaxft + "attn.q", linear),
        WeightRule(hf + "attention.key", jaxft + "attn.k", linear),
        WeightRule(hf + "attention.value", jaxft + "attn.v", linear),
        WeightRule(hf + "attention.dense", jaxft + "attn.o", linear),
        WeightRule(hf + "attention.LayerNorm", jaxft + "norms.attn_res", norm),
        WeightRule(hf + "ffn", jaxft + "mlp.up", linear),
        WeightRule(hf + "ffn_output", jaxft + "mlp.down", linear),
        WeightRule(hf + "full_layer_layer_norm", jaxft + "norms.mlp_res", norm),
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    tied = c.get("tie_word_embeddings", True)  # read for every head, so that it never counts as unread
    pooler = WeightRule("albert.pooler", "head.dense", linear)
    if kind == "none":
        return HeadRules(Pooler("tanh"), [pooler])
    rate = c.get("classifier_dropout_prob", 0.1)
    if kind in TEXT_LEVEL:
        rules = [pooler._replace(jaxft="head.pooler.dense"), WeightRule("classifier", "head.out", linear)]
        return HeadRules(Classifier(classes, Pooler("tanh"), dropout=rate), rules)
    if kind == "token-classification":
        return HeadRules(Classifier(classes, dropout=rate), [WeightRule("classifier", "head.out", linear)])
    if kind == "question-answering":
        return bert.head(c, kind, classes)
    masked_lm = masked_lm_head(
        tied,
        Transform(c.hidden_act, LayerNorm(c.layer_norm_eps), c.embedding_size),
        tokens="albert.embeddings.word_embeddings",
        dense="predictions.dense",
        layer_norm="predictions.LayerNorm",
        output="predictions.decoder",
        bias="predictions.bias",
    )
    if kind == "pretraining":
        pair = Classifier(classes, Pooler("tanh"), dropout=rate)
        return pretraining_head(masked_lm, pair, pooler.hf, "sop_classifier.classifier")
    return masked_lm


FAMILY = replace(
    bert.FAMILY,
    prefix="albert.",
    architectures=architectures("Albert", ENCODER_HEADS + " pretraining"),
    spec=spec,
    rules=rules,
    head=head,
    other_heads=(r"predictions\..*", r"sop_classifier\..*", r"classifier\..*", r"qa_outputs\..*", r"pooler\..*"),
)
