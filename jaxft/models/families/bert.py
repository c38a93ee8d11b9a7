"""BERT (Devlin et al. 2018): a post-norm encoder with learned positions and text types."""

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import masked_lm_head, pretraining_head
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


def spec(c: ConfigReader) -> Spec:
    c.expect("position_embedding_type", "absolute", "relative positions are not implemented")
    c.expect("add_cross_attention", False, "cross-attention is not implemented")
    heads = c.num_attention_heads
    ln = LayerNorm(c.layer_norm_eps)
    layer = Layer(
        Attention(
            heads,
            heads,
            c.quotient("hidden_size", "num_attention_heads"),
            causal=c.get("is_decoder", False),
            dropout=c.attention_probs_dropout_prob,
        ),
        Dense(c.intermediate_size, c.hidden_act),
        ln,
        POST_NORM,
        c.hidden_dropout_prob,
    )
    embed = Embed(c.vocab_size, c.max_position_embeddings, c.type_vocab_size, ln, c.hidden_dropout_prob)
    return Spec(
        c.hidden_size, embed, (layer,) * c.num_hidden_layers, None, c.max_position_embeddings, c.initializer_range
    )


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "encoder.layer.{i}.", "layers.{i}."
    return [
        WeightRule("embeddings.word_embeddings", "embed.tokens", embedding),
        WeightRule("embeddings.position_embeddings", "embed.positions", embedding),
        WeightRule("embeddings.token_type_embeddings", "embed.types", embedding),
        WeightRule("embeddings.LayerNorm", "embed.norm", norm),
        WeightRule(hf + "attention.self.query", jaxft + "attn.q", linear),
        WeightRule(hf + "attention.self.key", jaxft + "attn.k", linear),
        WeightRule(hf + "attention.self.value", jaxft + "attn.v", linear),
        WeightRule(hf + "attention.output.dense", jaxft + "attn.o", linear),
        WeightRule(hf + "attention.output.LayerNorm", jaxft + "norms.attn_res", norm),
        WeightRule(hf + "intermediate.dense", jaxft + "mlp.up", linear),
        WeightRule(hf + "output.dense", jaxft + "mlp.down", linear),
        WeightRule(hf + "output.LayerNorm", jaxft + "norms.mlp_res", norm),
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    tied = c.get("tie_word_embeddings", True)  # read for every head, so that it never counts as unread
    if kind == "none":
        return HeadRules(Pooler("tanh"), [WeightRule("bert.pooler.dense", "head.dense", linear)])
    if kind in TEXT_LEVEL:
        rate = c.get("classifier_dropout", c.hidden_dropout_prob)
        rules = [
            WeightRule("bert.pooler.dense", "head.pooler.dense", linear),
            WeightRule("classifier", "head.out", linear),
        ]
        return HeadRules(Classifier(classes, Pooler("tanh"), dropout=rate), rules)
    if kind == "token-classification":
        rate = c.get("classifier_dropout", c.hidden_dropout_prob)
        return HeadRules(Classifier(classes, dropout=rate), [WeightRule("classifier", "head.out", linear)])
    if kind == "question-answering":
        return HeadRules(Classifier(classes), [WeightRule("qa_outputs", "head.out", linear)])
    expect_is_decoder(c, kind)
    masked_lm = masked_lm_head(
        tied,
        Transform(c.hidden_act, LayerNorm(c.layer_norm_eps)),
        tokens="bert.embeddings.word_embeddings",
        dense="cls.predictions.transform.dense",
        layer_norm="cls.predictions.transform.LayerNorm",
        output="cls.predictions.decoder",
        bias="cls.predictions.bias",
    )
    if kind == "pretraining":
        pair = Classifier(2, Pooler("tanh"))
        return pretraining_head(masked_lm, pair, "bert.pooler.dense", "cls.seq_relationship")
    return masked_lm


def expect_is_decoder(c: ConfigReader, kind: str) -> None:
    """A causal language model needs `is_decoder`, which makes attention causal; a masked one needs it off."""
    if kind == "causal-lm":
        c.expect("is_decoder", True, "a causal language model needs causal attention; to train one, set it to true")
    else:
        c.expect(
            "is_decoder",
            False,
            "masked-lm needs bidirectional attention; the head of this model is causal-lm",
        )


FAMILY = Family(
    "bert.",
    architectures("Bert", ENCODER_HEADS + " pretraining") | {"causal-lm": "BertLMHeadModel"},
    spec,
    rules,
    head,
    buffers=(r"embeddings\.position_ids",),
    other_heads=(r"cls\..*", r"classifier\..*", r"qa_outputs\..*", r"pooler\..*"),
)
