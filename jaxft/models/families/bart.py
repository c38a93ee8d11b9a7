"""BART (Lewis et al. 2020): a post-norm encoder and decoder with learned positions."""

from typing import Any

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import encoder_decoder_classifier
from jaxft.models.checkpoint.weight_table import (
    Family,
    HeadRules,
    OneSided,
    Unsqueezed,
    WeightRule,
    architectures,
    embedding,
    linear,
    norm,
)
from jaxft.models.heads import LanguageModel
from jaxft.models.layers.attention import Attention, CrossAttention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.spec import POST_NORM, PRE_NORM, Layer, Spec

OFFSET = 2  # index of position 0 in the position table
LN = LayerNorm(1e-5)


def spec(c: ConfigReader, pre_norm: bool = False, decoder_start: int | str | None = None, **embed: Any) -> Spec:
    """`pre_norm`: norms before the sublayers, and one after the last layer; `embed` are fields of the embeddings.

    `decoder_start` overrides `decoder_start_token_id` of config.json.
    """
    c.expect("tie_word_embeddings", True, "separate token embeddings are not implemented")
    c.ignore("encoder_layerdrop", "decoder_layerdrop")  # used in training only
    c.ignore("forced_eos_token_id", "forced_bos_token_id")  # used in generation only
    norms = PRE_NORM | {"cross_in"} if pre_norm else POST_NORM | {"cross_res"}
    table = {
        "positions": c.max_position_embeddings + OFFSET,
        "offset": OFFSET,
        "norm": LN,
        "scale": c.d_model**0.5 if c.scale_embedding else 1.0,
        "dropout": c.dropout,
    } | embed

    def side(layers: int, heads: str, hidden: int, vocab: int, decodes: bool, **more) -> Spec:
        sizes = getattr(c, heads), getattr(c, heads), c.quotient("d_model", heads)
        attention = Attention(*sizes, causal=decodes, dropout=c.attention_dropout)
        cross = CrossAttention(*sizes, dropout=c.attention_dropout) if decodes else None
        mlp = Dense(hidden, c.activation_function, dropout=c.activation_dropout)
        places = norms if decodes else norms - {"cross_in", "cross_res"}
        layer = Layer(attention, mlp, LN, places, c.dropout, cross=cross)
        last = LN if pre_norm else None
        embed = Embed(vocab, **table, shared_embedding=not decodes and c.get("share_encoder_decoder_embeddings", True))
        return Spec(
            c.d_model, embed, (layer,) * layers, last, c.max_position_embeddings, c.init_std, pool_token="last", **more
        )

    vocab = c.get("decoder_vocab_size", c.vocab_size)
    encoder = side(c.encoder_layers, "encoder_attention_heads", c.encoder_ffn_dim, c.vocab_size, False)
    stored = c.get("decoder_start_token_id")
    decoder_start = decoder_start or stored
    return side(
        c.decoder_layers,
        "decoder_attention_heads",
        c.decoder_ffn_dim,
        vocab,
        True,
        encoder=encoder,
        decoder_start=decoder_start,
    )


def rules(c: ConfigReader, pre_norm: bool = False) -> list[WeightRule]:
    found = [WeightRule("shared", "embed.tokens", embedding)]
    for hf, jaxft in (("encoder.", "encoder."), ("decoder.", "")):
        hf_layer, layer = hf + "layers.{i}.", jaxft + "layers.{i}."
        place = "in" if pre_norm else "res"
        found.append(WeightRule(hf + "embed_positions", jaxft + "embed.positions", embedding))
        found.append(WeightRule(hf + "layernorm_embedding", jaxft + "embed.norm", norm))
        for a, b in (("self_attn", "attn"), ("encoder_attn", "cross")):
            found += [WeightRule(f"{hf_layer}{a}.{x}_proj", f"{layer}{b}.{x}", linear) for x in "qkv"]
            found.append(WeightRule(f"{hf_layer}{a}.out_proj", f"{layer}{b}.o", linear))
            found.append(WeightRule(f"{hf_layer}{a}_layer_norm", f"{layer}norms.{b}_{place}", norm))
        found.append(WeightRule(hf_layer + "fc1", layer + "mlp.up", linear))
        found.append(WeightRule(hf_layer + "fc2", layer + "mlp.down", linear))
        found.append(WeightRule(hf_layer + "final_layer_norm", f"{layer}norms.mlp_{place}", norm))
        found.append(WeightRule(hf + "layer_norm", jaxft + "norm", norm))
    return found


def head(c: ConfigReader, kind: str, classes: int, prefix: str = "model.") -> HeadRules:
    names = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
    shared, *copies, output = (name + ".weight" if name == "lm_head" else f"{prefix}{name}.weight" for name in names)
    if kind == "causal-lm":  # the decoder alone
        c.ignore("is_decoder")
        return HeadRules(LanguageModel(True, False), ties=dict.fromkeys([shared, copies[0], output], copies[1]))
    c.expect("is_decoder", False, "this head needs encoder and decoder; causal-lm uses the decoder alone")
    ties = dict.fromkeys(copies, shared)
    if kind != "seq2seq-lm":
        return encoder_decoder_classifier(c, kind, classes)._replace(ties=ties)
    rules = [WeightRule("final_logits_bias", "head.bias", Unsqueezed(1))]
    return HeadRules(LanguageModel(True, "fixed"), rules, ties | {output: shared})


HEADS = "none seq2seq-lm causal-lm sequence-classification question-answering"
FAMILY = Family(
    "model.",
    architectures("Bart", HEADS),
    spec,
    rules,
    head,
    buffers=(r"(en|de)coder\.version",),
    one_sided=(OneSided("causal-lm", "decoder", "decoder.embed_tokens"),),
    other_heads=(r"lm_head\..*", r"final_logits_bias", r"classification_head\..*", r"qa_outputs\..*"),
)
