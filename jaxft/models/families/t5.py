"""T5 (Raffel et al. 2020): an encoder-decoder with learned relative biases in place of positions."""

from typing import Any

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import encoder_decoder_classifier
from jaxft.models.checkpoint.weight_table import (
    Family,
    HeadRules,
    OneSided,
    WeightRule,
    architectures,
    embedding,
    linear,
    norm,
    rel_bias,
)
from jaxft.models.heads import Classifier, LanguageModel
from jaxft.models.layers.attention import Attention, CrossAttention
from jaxft.models.layers.basic import Dense, Embed, Gated, RMSNorm
from jaxft.models.layers.relative_bias import T5Buckets
from jaxft.models.spec import PRE_NORM, Layer, Spec


def spec(c: ConfigReader, shared: bool = True) -> Spec:
    """`shared`: all layers of a side share one table of relative biases."""
    c.expect("is_decoder", False, "a T5 decoder alone is not implemented")
    c.ignore("feed_forward_proj")  # transformers derives dense_act_fn and is_gated_act from it
    heads, rate, ln = c.num_heads, c.dropout_rate, RMSNorm(c.layer_norm_epsilon)
    buckets = c.relative_attention_num_buckets, c.relative_attention_max_distance
    plain = {"bias": frozenset(), "dropout": rate, "scale": 1.0}
    mlp = (Gated if c.is_gated_act else Dense)(c.d_ff, c.dense_act_fn, bias=False, dropout=rate)

    def side(layers: int, decodes: bool, **more: Any) -> Spec:
        learned = T5Buckets(heads, *buckets, causal=decodes, shared=shared)
        attention = Attention(heads, heads, c.d_kv, causal=decodes, rel_bias=learned, **plain)
        cross = CrossAttention(heads, heads, c.d_kv, **plain) if decodes else None
        places = PRE_NORM | {"cross_in"} if decodes else PRE_NORM
        layer = Layer(attention, mlp, ln, places, rate, cross=cross)
        embed = Embed(c.vocab_size, dropout=rate, shared_embedding=not decodes)
        std = c.initializer_factor * c.d_model**-0.5  # of most matrices; in transformers some begin smaller
        return Spec(c.d_model, embed, (layer,) * layers, ln, None, std, "last", rate, **more)

    decoder_start = c.get("decoder_start_token_id", c.pad_token_id)
    return side(c.num_decoder_layers, True, encoder=side(c.num_layers, False), decoder_start=decoder_start)


def rules(c: ConfigReader, shared: bool = True) -> list[WeightRule]:
    found = [WeightRule("shared", "embed.tokens", embedding)]
    for hf, jaxft in (("encoder.", "encoder."), ("decoder.", "")):
        attention, layer = jaxft + "layers.{i}.attn.", hf + "block.{i}."
        first = hf + "block.0.layer.0.SelfAttention.", jaxft
        table, of = first if shared else (layer + "layer.0.SelfAttention.", attention)
        found.append(WeightRule(table + "relative_attention_bias", of + "rel_bias", rel_bias))
        found += [WeightRule(layer + f"layer.0.SelfAttention.{x}", attention + x, linear) for x in "qkvo"]
        found.append(WeightRule(layer + "layer.0.layer_norm", jaxft + "layers.{i}.norms.attn_in", norm))
        if not jaxft:
            found += [
                WeightRule(layer + f"layer.1.EncDecAttention.{x}", "layers.{i}.cross." + x, linear) for x in "qkvo"
            ]
            found.append(WeightRule(layer + "layer.1.layer_norm", "layers.{i}.norms.cross_in", norm))
        mlp = layer + ("layer.1." if jaxft else "layer.2.")
        names = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if c.is_gated_act else {"wi": "up", "wo": "down"}
        found += [
            WeightRule(f"{mlp}DenseReluDense.{x}", jaxft + "layers.{i}.mlp." + y, linear) for x, y in names.items()
        ]
        found.append(WeightRule(mlp + "layer_norm", jaxft + "layers.{i}.norms.mlp_in", norm))
        found.append(WeightRule(hf + "final_layer_norm", jaxft + "norm", norm))
    return found


def head(c: ConfigReader, kind: str, classes: int, scaled: bool | None = None) -> HeadRules:
    """`scaled`: hidden states are divided by sqrt(width) before the output matrix."""
    c.ignore("tie_word_embeddings")  # the checkpoint's own matrices decide
    scaled = c.get("scale_decoder_outputs", True) if scaled is None else scaled
    prefix = dict(FAMILY.prefixes).get(kind, "")
    ties = {f"{prefix}{side}.embed_tokens.weight": prefix + "shared.weight" for side in ("encoder", "decoder")}
    if kind == "token-classification":
        classifier = Classifier(classes, dropout=c.classifier_dropout)
        return HeadRules(classifier, [WeightRule("classifier", "head.out", linear)], ties)
    if kind != "seq2seq-lm":
        return encoder_decoder_classifier(c, kind, classes)._replace(ties=ties)
    tables = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")  # a file may have any of them
    tied = not any(c.differ("lm_head.weight", table + ".weight") for table in tables)
    if tied:
        ties["lm_head.weight"] = "shared.weight"
    part = LanguageModel(tied, False, scale=c.d_model**-0.5 if scaled else 1.0)
    return HeadRules(part, [WeightRule("lm_head", "head.table", embedding)], ties)


HEADS = "none seq2seq-lm sequence-classification token-classification question-answering"
FAMILY = Family(
    "",
    architectures("T5", HEADS),
    spec,
    rules,
    head,
    buffers=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    other_heads=(r"lm_head\..*", r"classification_head\..*", r"classifier\..*", r"qa_outputs\..*"),
    prefixes=(("sequence-classification", "transformer."), ("token-classification", "transformer.")),
    one_sided=(OneSided("token-classification", "encoder", "shared"),),
)
