"""Llama (Touvron et al. 2023; Dubey et al. 2024): RMS pre-norm, rotary positions, grouped queries, gated MLP.

Most later decoders are Llama with changes, which their files state.
"""

from collections.abc import Mapping
from typing import Any

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import decoder_head
from jaxft.models.checkpoint.weight_table import Family, WeightRule, architectures, embedding, linear, norm
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Embed, Gated, LayerNorm, RMSNorm
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import PRE_NORM, Layer, Spec
from jaxft.problems import raise_problems, truncated_repr


def spec(c: ConfigReader) -> Spec:
    return stack(c, (layer(c),) * c.num_hidden_layers)


def stack(c: ConfigReader, layers: tuple[Layer, ...], **embed: Any) -> Spec:
    """A backbone of `layers`; `embed` are fields of the embeddings."""
    c.ignore("max_position_embeddings")  # rotary positions need no table
    return Spec(
        c.hidden_size,
        Embed(c.vocab_size, **embed),
        layers,
        layers[0].norm,
        None,
        c.initializer_range,
        pool_token="last",
    )


def layer(
    c: ConfigReader,
    norms: frozenset[str] = PRE_NORM,
    norm: LayerNorm | RMSNorm | None = None,
    act: str | None = None,
    **attention: Any,
) -> Layer:
    """One layer; `attention` are fields of its attention, which replace or extend Llama's."""
    heads = c.num_attention_heads
    head_dim = c.get("head_dim", c.hidden_size // heads)
    usual = {
        "causal": True,
        "bias": frozenset("qkvo" if c.get("attention_bias", False) else ""),
        "dropout": c.get("attention_dropout", 0.0),
    }
    if "rotary" not in attention:
        usual["rotary"] = read_rotary(c, head_dim)
    kv_heads = heads // c.quotient("num_attention_heads", "num_key_value_heads")
    return Layer(
        Attention(heads, kv_heads, head_dim, **usual | attention),
        Gated(c.intermediate_size, act or c.hidden_act, c.get("mlp_bias", False)),
        norm or RMSNorm(c.rms_norm_eps),
        norms,
    )


def windows(c: ConfigReader) -> list[int | None]:
    """Each layer's sliding window in tokens, by `layer_types`; None: full attention."""
    kinds = {"full_attention": None, "sliding_attention": c.get("sliding_window")}
    types = c.of_layers("layer_types")
    raise_problems(
        f"config.json: layer_types has {truncated_repr(kind)}, not {' or '.join(kinds)}"
        for kind in set(types) - set(kinds)
    )
    return [kinds[kind] for kind in types]


# Module in the checkpoint -> place of the norm: before each sublayer, or before and after it.
NORMS = {"input_layernorm": "attn_in", "post_attention_layernorm": "mlp_in"}
SANDWICH = {
    "input_layernorm": "attn_in",
    "post_attention_layernorm": "attn_out",
    "pre_feedforward_layernorm": "mlp_in",
    "post_feedforward_layernorm": "mlp_out",
}


def rules(c: ConfigReader, norms: Mapping[str, str] = NORMS) -> list[WeightRule]:
    hf, jaxft = "layers.{i}.", "layers.{i}."
    return [
        WeightRule("embed_tokens", "embed.tokens", embedding),
        WeightRule(hf + "self_attn.q_proj", jaxft + "attn.q", linear),
        WeightRule(hf + "self_attn.k_proj", jaxft + "attn.k", linear),
        WeightRule(hf + "self_attn.v_proj", jaxft + "attn.v", linear),
        WeightRule(hf + "self_attn.o_proj", jaxft + "attn.o", linear),
        WeightRule(hf + "self_attn.q_norm", jaxft + "attn.q_norm", norm),
        WeightRule(hf + "self_attn.k_norm", jaxft + "attn.k_norm", norm),
        WeightRule(hf + "mlp.gate_proj", jaxft + "mlp.gate", linear),
        WeightRule(hf + "mlp.up_proj", jaxft + "mlp.up", linear),
        WeightRule(hf + "mlp.down_proj", jaxft + "mlp.down", linear),
        *(WeightRule(hf + name, jaxft + "norms." + place, norm) for name, place in norms.items()),
        WeightRule("norm", "norm", norm),
    ]


head = decoder_head("model.embed_tokens", token_classifier="score", tied=False)


HEADS = "none sequence-classification token-classification causal-lm"
FAMILY = Family(
    "model.",
    architectures("Llama", HEADS + " question-answering"),
    spec,
    rules,
    head,
    buffers=(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
    other_heads=(r"lm_head\..*", r"score\..*", r"qa_outputs\..*"),
    prefixes=(("question-answering", "transformer."),),
)
