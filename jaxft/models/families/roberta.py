"""RoBERTa (Liu et al. 2019): BERT with positions that begin at row `pad_token_id + 1`, and another head."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import masked_lm_head
from jaxft.models.checkpoint.weight_table import ENCODER_HEADS, HeadRules, WeightRule, architectures, linear
from jaxft.models.families import bert
from jaxft.models.heads import Classifier, Pooler, Transform
from jaxft.models.layers.basic import LayerNorm
from jaxft.models.spec import Spec


def spec(c: ConfigReader) -> Spec:
    first = c.get("pad_token_id", 1) + 1  # index of position 0 in the position table
    same = bert.spec(c)
    return replace(same, embed=replace(same.embed, offset=first), max_positions=c.max_position_embeddings - first)


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    tied = c.get("tie_word_embeddings", True)  # read for every head, so that it never counts as unread
    if kind == "sequence-classification":
        rate = c.get("classifier_dropout", c.hidden_dropout_prob)
        rules = [
            WeightRule("classifier.dense", "head.pooler.dense", linear),
            WeightRule("classifier.out_proj", "head.out", linear),
        ]
        return HeadRules(Classifier(classes, Pooler("tanh", rate), dropout=rate), rules)
    if kind == "multiple-choice":
        rules = [
            WeightRule("roberta.pooler.dense", "head.pooler.dense", linear),
            WeightRule("classifier", "head.out", linear),
        ]
        return HeadRules(Classifier(classes, Pooler("tanh"), dropout=c.hidden_dropout_prob), rules)
    if kind not in ("masked-lm", "causal-lm"):
        found = bert.head(c, kind, classes)
        return found._replace(rules=[rule._replace(hf=rule.hf.replace("bert.", "roberta.")) for rule in found.rules])
    bert.expect_is_decoder(c, kind)
    return masked_lm_head(
        tied,
        Transform("gelu", LayerNorm(c.layer_norm_eps)),
        tokens="roberta.embeddings.word_embeddings",
        dense="lm_head.dense",
        layer_norm="lm_head.layer_norm",
        output="lm_head.decoder",
        bias="lm_head.bias",
    )


HEADS = ENCODER_HEADS + " causal-lm"
FAMILY = replace(
    bert.FAMILY,
    prefix="roberta.",
    architectures=architectures("Roberta", HEADS),
    spec=spec,
    head=head,
    other_heads=(r"lm_head\..*", r"classifier\..*", r"qa_outputs\..*", r"pooler\..*"),
)
