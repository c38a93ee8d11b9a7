"""ELECTRA (Clark et al. 2020): BERT with embeddings of another width; its generator is a masked language model."""

from dataclasses import replace

from jaxft.models.families import bert
from jaxft.models.heads import Classifier, LanguageModel, Pooler, Transform
from jaxft.models.hf import Row, architectures, embedding, linear, norm, tensor
from jaxft.models.parts import LayerNorm, Projection

HEADS = "none sequence-classification token-classification question-answering masked-lm"


def spec(c):
    c.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout")  # of multiple choice
    same, inner = bert.spec(c), c.embedding_size
    return same if inner == c.hidden_size else replace(same, embed=replace(same.embed, project=Projection(inner)))


def rows(c):
    return [*bert.rows(c), Row("embeddings_project", "embed.project", linear)]


def head(c, kind, classes):
    tied = c.get("tie_word_embeddings", True)  # read for every head: where there is no output matrix it says nothing
    if kind == "none":
        return None, [], {}
    if kind == "sequence-classification":
        rate = c.get("classifier_dropout", c.hidden_dropout_prob)
        rows = [Row("classifier.dense", "head.pooler.dense", linear), Row("classifier.out_proj", "head.out", linear)]
        return Classifier(classes, Pooler("gelu", rate), dropout=rate), rows, {}
    if kind != "masked-lm":
        return bert.head(c, kind, classes)
    rows = [
        Row("generator_predictions.dense", "head.dense", linear),
        Row("generator_predictions.LayerNorm", "head.norm", norm),
        Row("generator_lm_head.bias", "head.bias", tensor),
        Row("generator_lm_head", "head.table", embedding),
    ]
    repeats = {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"} if tied else {}
    transform = Transform("gelu", LayerNorm(c.layer_norm_eps), c.embedding_size)
    return LanguageModel(tied, True, transform), rows, repeats


FAMILY = replace(
    bert.FAMILY,
    prefix="electra.",
    architectures=architectures("Electra", HEADS),
    spec=spec,
    rows=rows,
    head=head,
    other_heads=(r"generator_.*", r"discriminator_.*", r"classifier\..*", r"qa_outputs\..*"),
)
