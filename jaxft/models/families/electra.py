"""ELECTRA (Clark et al. 2020): BERT with embeddings of a separate width; its generator is a masked language model."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import masked_lm_head
from jaxft.models.checkpoint.weight_table import ENCODER_HEADS, HeadRules, WeightRule, architectures, linear
from jaxft.models.families import bert
from jaxft.models.heads import Classifier, Pooler, Transform
from jaxft.models.layers.basic import LayerNorm, Projection
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    c.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout")  # for multiple choice
    same, inner = bert.spec(c), c.embedding_size
    return same if inner == c.hidden_size else replace(same, embed=replace(same.embed, project=Projection(inner)))


def rules(c: ConfigReader) -> list[WeightRule]:
    return [*bert.rules(c), WeightRule("embeddings_project", "embed.project", linear)]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    tied = c.get("tie_word_embeddings", True)  # read for every head, so that it never counts as unread
    if kind == "none":
        return HeadRules(None)
    if kind == "sequence-classification":
        rate = c.get("classifier_dropout", c.hidden_dropout_prob)
        rules = [
            WeightRule("classifier.dense", "head.pooler.dense", linear),
            WeightRule("classifier.out_proj", "head.out", linear),
        ]
        return HeadRules(Classifier(classes, Pooler("gelu", rate), dropout=rate), rules)
    if kind == "pretraining":  # whether a token was replaced (Clark et al. 2020, section 2)
        rules = [
            WeightRule("discriminator_predictions.dense", "head.pooler.dense", linear),
            WeightRule("discriminator_predictions.dense_prediction", "head.out", linear),
        ]
        return HeadRules(Classifier(1, Pooler(c.hidden_act)), rules)
    if kind == "multiple-choice":
        return choice(c, classes)
    if kind not in ("masked-lm", "causal-lm"):
        return bert.head(c, kind, classes)
    bert.expect_is_decoder(c, kind)
    return masked_lm_head(
        tied,
        Transform("gelu", LayerNorm(c.layer_norm_eps), c.embedding_size),
        tokens="electra.embeddings.word_embeddings",
        dense="generator_predictions.dense",
        layer_norm="generator_predictions.LayerNorm",
        output="generator_lm_head",
        bias="generator_lm_head.bias",
    )


def choice(c: ConfigReader, classes: int) -> HeadRules:
    c.expect("summary_type", "first", "only the first token is read")
    c.expect("summary_use_proj", True, "a head without its dense layer is not implemented")
    rules = [
        WeightRule("sequence_summary.summary", "head.pooler.dense", linear),
        WeightRule("classifier", "head.out", linear),
    ]
    return HeadRules(Classifier(classes, Pooler(c.summary_activation), dropout=c.summary_last_dropout), rules)


FAMILY = replace(
    bert.FAMILY,
    prefix="electra.",
    architectures=architectures("Electra", ENCODER_HEADS + " causal-lm pretraining"),
    spec=spec,
    rules=rules,
    head=head,
    other_heads=(r"generator_.*", r"discriminator_.*", r"sequence_summary\..*", r"classifier\..*", r"qa_outputs\..*"),
)
