"""Heads that several families share, with the rules of their weights."""

from collections.abc import Callable
from typing import Any

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import HeadRules, WeightRule, embedding, linear, norm, tensor
from jaxft.models.heads import Classifier, LanguageModel, Pooler, Pretraining, Transform


def decoder_head(
    tokens: str, output: str = "lm_head", token_classifier: str = "classifier", tied: bool = True
) -> Callable[..., HeadRules]:
    """The `head` of a family of decoders.

    `tokens`, `output` and `token_classifier` are modules of the checkpoint, by their full names: the token embeddings,
    the language model's output matrix, the token classifier. `tied` is the default of `tie_word_embeddings`.
    """

    def head(c: ConfigReader, kind: str, classes: int, **options: Any) -> HeadRules:
        """`options` are further fields of the LanguageModel."""
        ties = c.get("tie_word_embeddings", tied)  # read for every head, so that it never counts as unread
        if kind == "none":
            return HeadRules(None)
        if kind == "sequence-classification":
            return HeadRules(Classifier(classes, bias=False), [WeightRule("score", "head.out", linear)])
        if kind == "token-classification":
            rate = c.get("classifier_dropout", c.get("hidden_dropout", 0.1))
            return HeadRules(Classifier(classes, dropout=rate), [WeightRule(token_classifier, "head.out", linear)])
        if kind == "question-answering":
            return HeadRules(Classifier(classes), [WeightRule("qa_outputs", "head.out", linear)])
        part = LanguageModel(ties, False, **options)
        return HeadRules(
            part,
            [WeightRule(output, "head.table", embedding)],
            {output + ".weight": tokens + ".weight"} if ties else {},
        )

    return head


def encoder_decoder_classifier(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    """The heads of an encoder-decoder that generate nothing: the decoder reads the encoder's text again."""
    if kind == "sequence-classification":
        rate = c.get("classifier_dropout", 0.0)
        rules = [
            WeightRule("classification_head.dense", "head.pooler.dense", linear),
            WeightRule("classification_head.out_proj", "head.out", linear),
        ]
        return HeadRules(Classifier(classes, Pooler("tanh", rate), dropout=rate), rules)
    if kind == "question-answering":
        return HeadRules(Classifier(classes), [WeightRule("qa_outputs", "head.out", linear)])
    return HeadRules(None)


def masked_lm_head(
    tied: bool,
    transform: Transform,
    *,
    tokens: str,
    dense: str,
    layer_norm: str,
    output: str,
    bias: str,
    has_bias: bool = True,
) -> HeadRules:
    """A masked language model; all names are full names of the checkpoint's modules.

    `tokens` are the embeddings, to which the matrix of `output` is tied if `tied`; `dense` and `layer_norm` are the
    transform's. `bias` is the tensor that is read; if it is not `output`'s own, that one repeats it.
    """
    rules = [
        WeightRule(dense, "head.dense", linear),
        WeightRule(layer_norm, "head.norm", norm),
        WeightRule(bias, "head.bias", tensor),
        WeightRule(output, "head.table", embedding),
    ]
    ties = {} if bias == output + ".bias" else {output + ".bias": bias}
    if tied:
        ties[output + ".weight"] = tokens + ".weight"
    return HeadRules(LanguageModel(tied, has_bias, transform), rules, ties)


def pretraining_head(masked_lm: HeadRules, pair: Classifier, pooler: str, output: str) -> HeadRules:
    """The masked language model `masked_lm` with a classifier of text pairs beside it."""
    rules = [WeightRule(pooler, "head.pair.pooler.dense", linear), WeightRule(output, "head.pair.out", linear)]
    return HeadRules(Pretraining(**vars(masked_lm.part), pair=pair), [*masked_lm.rules, *rules], masked_lm.ties)
