"""RoBERTa (Liu et al. 2019): BERT whose positions begin behind the padding token's number, and another head."""

from dataclasses import replace

from jaxft.models.families import bert
from jaxft.models.heads import Classifier, LanguageModel, Pooler, Transform
from jaxft.models.hf import Row, architectures, embedding, linear, norm, tensor
from jaxft.models.parts import LayerNorm

HEADS = "none sequence-classification token-classification question-answering masked-lm"


def spec(c):
    first = c.get("pad_token_id", 1) + 1  # row of the position table that position 0 has
    same = bert.spec(c)
    return replace(same, embed=replace(same.embed, offset=first), max_positions=same.max_positions - first)


def head(c, kind, classes):
    tied = c.get("tie_word_embeddings", True)  # read for every head: where there is no output matrix it says nothing
    if kind == "sequence-classification":
        rate = c.get("classifier_dropout", c.hidden_dropout_prob)
        rows = [Row("classifier.dense", "head.pooler.dense", linear), Row("classifier.out_proj", "head.out", linear)]
        return Classifier(classes, Pooler("tanh", rate), dropout=rate), rows, {}
    if kind != "masked-lm":
        part, rows, repeats = bert.head(c, kind, classes)
        return part, [row._replace(theirs=row.theirs.replace("bert.", "roberta.")) for row in rows], repeats
    rows = [
        Row("lm_head.dense", "head.dense", linear),
        Row("lm_head.layer_norm", "head.norm", norm),
        Row("lm_head.bias", "head.bias", tensor),
        Row("lm_head.decoder", "head.table", embedding),
    ]
    repeats = {"lm_head.decoder.bias": "lm_head.bias"}
    if tied:
        repeats["lm_head.decoder.weight"] = "roberta.embeddings.word_embeddings.weight"
    return LanguageModel(tied, True, Transform("gelu", LayerNorm(c.layer_norm_eps))), rows, repeats


FAMILY = replace(
    bert.FAMILY,
    prefix="roberta.",
    architectures=architectures("Roberta", HEADS),
    spec=spec,
    head=head,
    other_heads=(r"lm_head\..*", r"classifier\..*", r"qa_outputs\..*", r"pooler\..*"),
)
