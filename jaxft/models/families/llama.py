"""Llama (Touvron et al. 2023; Dubey et al. 2024): RMS pre-norm, rotary positions, grouped queries, gated MLP."""

import math
from dataclasses import dataclass

import jax.numpy as jnp

from jaxft.models.attention import Attention
from jaxft.models.heads import Classifier, LanguageModel
from jaxft.models.hf import Row, embedding, linear, norm
from jaxft.models.parts import Embed, Gated, LinearScaling, RMSNorm, Rotary
from jaxft.models.spec import PRE_NORM, Layer, Spec
from jaxft.problems import raise_problems

PREFIX = "model."
ARCHITECTURES = {
    "none": "LlamaModel",
    "sequence-classification": "LlamaForSequenceClassification",
    "causal-lm": "LlamaForCausalLM",
}
BUFFERS = (r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",)
OTHER_HEADS = (r"lm_head\..*", r"score\..*", r"qa_outputs\..*")


ROPE = {
    "rope_theta": 1e4,
    "factor": 1.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def spec(c) -> Spec:
    c.ignore("max_position_embeddings")  # rotary positions have no table to run out of
    head_dim = c.get("head_dim", c.hidden_size // c.num_attention_heads)
    attention = Attention(
        c.num_attention_heads,
        c.num_attention_heads // c.quotient("num_attention_heads", "num_key_value_heads"),
        head_dim,
        causal=True,
        rotary=rotary(c, head_dim),
        bias=frozenset("qkvo" if c.get("attention_bias", False) else ""),
        dropout=c.attention_dropout,
    )
    mlp = Gated(c.intermediate_size, c.hidden_act, c.get("mlp_bias", False))
    rms = RMSNorm(c.rms_norm_eps)
    layers = (Layer(attention, mlp, rms, PRE_NORM),) * c.num_hidden_layers
    return Spec(c.hidden_size, Embed(c.vocab_size), layers, rms, None, c.initializer_range, reads="last")


def rotary(c, head_dim: int) -> Rotary:
    """The rotary part: `rope_parameters` (transformers 5) holds the base and the scaling."""
    rope = c.section("rope_parameters", ROPE)
    kind = rope.get("rope_type", "default")
    if kind == "default":
        scaling = None
    elif kind == "linear":
        scaling = LinearScaling(rope.factor)
    elif kind == "llama3":
        scaling = Llama3Scaling(
            rope.factor,
            rope.low_freq_factor,
            rope.high_freq_factor,
            rope.original_max_position_embeddings,
        )
    else:
        raise_problems([f"config.json: rope_type={kind!r} is not supported, only default, linear and llama3"])
    return Rotary(head_dim, rope.rope_theta, scaling)


@dataclass(frozen=True)
class Llama3Scaling:
    """Rotary frequencies stretched for long contexts (Llama 3.1: low ones divided, high ones kept, smooth between)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    def __call__(self, frequencies):
        turns = self.original_max_positions * frequencies / (2 * math.pi)  # full turns within the original context
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        smooth = jnp.clip(smooth, 0.0, 1.0)
        return (1 - smooth) * frequencies / self.factor + smooth * frequencies


def rows(c) -> list[Row]:
    layer, ours = "layers.{i}.", "layers.{i}."
    return [
        Row("embed_tokens", "embed.tokens", embedding),
        Row(layer + "input_layernorm", ours + "norms.attn_in", norm),
        Row(layer + "self_attn.q_proj", ours + "attn.q", linear),
        Row(layer + "self_attn.k_proj", ours + "attn.k", linear),
        Row(layer + "self_attn.v_proj", ours + "attn.v", linear),
        Row(layer + "self_attn.o_proj", ours + "attn.o", linear),
        Row(layer + "post_attention_layernorm", ours + "norms.mlp_in", norm),
        Row(layer + "mlp.gate_proj", ours + "mlp.gate", linear),
        Row(layer + "mlp.up_proj", ours + "mlp.up", linear),
        Row(layer + "mlp.down_proj", ours + "mlp.down", linear),
        Row("norm", "norm", norm),
    ]


def head(c, kind: str, classes: int):
    """The head's part, its rows, and the tensors that repeat others: (their name, the name of what they repeat)."""
    tied = c.get("tie_word_embeddings", False)  # read for every head: where there is no output matrix it says nothing
    if kind == "none":
        return None, [], {}
    if kind == "sequence-classification":
        return Classifier(classes, None, False, 0.0), [Row("score", "head.out", linear)], {}
    repeats = {"lm_head.weight": PREFIX + "embed_tokens.weight"} if tied else {}
    return LanguageModel(tied, False), [Row("lm_head", "head.table", embedding)], repeats
