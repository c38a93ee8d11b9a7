"""DeBERTa v2 and v3 (He et al. 2021; He et al. 2023): BERT with disentangled attention."""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.head_rules import masked_lm_head
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
from jaxft.models.layers.activations import ACTIVATIONS, known_activation
from jaxft.models.layers.attention import Attention, RematAttentionLayer
from jaxft.models.layers.basic import Dense, Embed, Embedding, LayerNorm, Linear, fold_key, param
from jaxft.models.layers.context import Carry, Context
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.precision import accumulator, upcast
from jaxft.models.layers.relative_bias import rel_shift, rel_shift_square
from jaxft.models.part import Part
from jaxft.models.spec import POST_NORM, Layer, Spec
from jaxft.problems import raise_problems


@dataclass(frozen=True)
class DistanceEmbeddings:
    """A learned embedding of each distance from -span to span - 1, or of each bucket, shared by all layers."""

    span: int
    buckets: bool
    longest: int  # distances from here on share one bucket
    norm: Part | None
    shared: bool = True

    def build(self, width: int) -> "DistanceEmbeddingsLayer":
        return DistanceEmbeddingsLayer(self, width)

    def numbers(self, back: np.ndarray) -> np.ndarray:
        """Rows of the table for distances `back` from the key to the query."""
        if self.buckets:
            mid, far = self.span // 2, np.abs(back)
            # float32 as in PyTorch: the last bit of the logarithm decides the bucket.
            logs = np.log(np.float32(np.maximum(far, mid - 1)) / np.float32(mid))
            logs = np.ceil(logs / np.log(np.float32((self.longest - 1) / mid)) * np.float32(mid - 1)) + mid
            back = np.where(far <= mid, back, logs * np.sign(back)).astype(np.int64)
        return np.clip(back + self.span, 0, 2 * self.span - 1)


class DistanceEmbeddingsLayer(nnx.Module):
    def __init__(self, part: DistanceEmbeddings, width: int):
        self.table = Embedding(2 * part.span, width, (None, "embed"))
        self.norm = part.norm.build(width) if part.norm else nnx.data(None)

    def __call__(self, length: int) -> jax.Array:
        """Float32 (2 span, width), for any `length`."""
        vectors = upcast(self.table.embedding[...])
        return vectors if self.norm is None else self.norm(vectors)


@dataclass(frozen=True)
class Disentangled(Attention):
    """Disentangled attention (He et al. 2021, eq. 4): scores of contents with distances are added.

    `kinds` has "c2p" where queries meet distances, "p2c" where distances meet keys; `maps` says which of the two have a
    map of their own, with or without bias: (of distances as keys, of distances as queries).
    """

    rel_bias: DistanceEmbeddings | None = None
    kinds: frozenset[str] = frozenset()
    maps: tuple[tuple[bool, bool], tuple[bool, bool]] = ((True, True), (True, True))
    position_dropout: float | None = None  # on the embeddings of distances

    def build(self, width: int) -> "DisentangledLayer":
        return DisentangledLayer(self, width)


class DisentangledLayer(RematAttentionLayer):
    part: Disentangled

    def __init__(self, part: Disentangled, width: int):
        super().__init__(part, width)

        def linear(kind: str, own: bool, bias: bool) -> Linear | None:
            wanted = own and kind in part.kinds
            return Linear(width, part.heads * part.head_dim, ("embed", "heads"), bias) if wanted else nnx.data(None)

        of_keys, of_queries = part.maps
        self.position_k, self.position_q = linear("c2p", *of_keys), linear("p2c", *of_queries)

    def attn_bias(self, q_bthd: jax.Array, k_bshd: jax.Array, context: Context, key: jax.Array | None) -> jax.Array:
        part, length, wide = self.part, k_bshd.shape[1], accumulator(q_bthd)
        assert part.rel_bias is not None and context.rel_bias is not None, "the model makes them once for all layers"
        vectors = dropout(context.rel_bias.astype(q_bthd.dtype), part.position_dropout or 0.0, fold_key(key, 1))
        rows = part.rel_bias.numbers(np.arange(length - 1, -length, -1))  # from the first key to the last
        total = jnp.zeros((), wide)
        if "c2p" in part.kinds:
            heads = self._distances(self.position_k or self.k, vectors, fold_key(key, 6))
            products = jnp.einsum("bthd,vhd->bhtv", q_bthd, heads, preferred_element_type=wide)[..., rows]
            total += rel_shift(products, context)
        if "p2c" in part.kinds:
            heads = self._distances(self.position_q or self.q, vectors, fold_key(key, 7))
            products = jnp.einsum("bshd,vhd->bhsv", k_bshd, heads, preferred_element_type=wide)
            every = rel_shift_square(products[..., rows[::-1]]).swapaxes(2, 3)
            places = context.queries.indices[:, None, :, None]
            total += every if context.is_square else jnp.take_along_axis(every, places, 2)
        return total * part.softmax.scale

    def _distances(self, linear: Linear, vectors_vd: jax.Array, key: jax.Array | None) -> jax.Array:
        return linear(vectors_vd, key).reshape(-1, self.part.heads, self.part.head_dim)


@dataclass(frozen=True)
class Neighbours:
    """A convolution over `count` neighbouring tokens of the same text, centred on the token."""

    count: int
    act: str
    dropout: float

    def build(self, width: int) -> "NeighboursLayer":
        return NeighboursLayer(self, width)


class NeighboursLayer(nnx.Module):
    def __init__(self, part: Neighbours, width: int):
        self.part, self.act = part, ACTIVATIONS[known_activation(part.act)]
        self.kernel = param((part.count, width, width), (None, "embed", None), "kernel")
        self.bias = param((width,), (None,), "bias", "zeros")

    def __call__(self, x_btd: jax.Array, context: Context, key: jax.Array | None) -> tuple[jax.Array, Carry]:
        side, length, dtype = self.part.count // 2, x_btd.shape[1], x_btd.dtype
        x, own = jnp.pad(x_btd, ((0, 0), (side, side), (0, 0))), context.keys.segments
        segments = jnp.pad(own, ((0, 0), (side, side)))
        y = self.bias[...].astype(dtype)
        for place, kernel in enumerate(self.kernel[...].astype(dtype)):
            same = segments[:, place : place + length] == own
            y += jnp.where(same[..., None], x[:, place : place + length], 0) @ kernel
        return self.act(dropout(y, self.part.dropout, key)), Carry()


def spec(c: ConfigReader, **attention: Any) -> Spec:
    """`attention` are fields that replace those of its attention."""
    c.expect("relative_attention", True, "model_type bert is the one without relative positions")
    c.expect("embedding_size", c.hidden_size, "embeddings of another width are not implemented")
    c.expect("pooler_hidden_size", c.hidden_size, "transformers uses the model's width")
    heads, ln, rate = c.num_attention_heads, LayerNorm(c.layer_norm_eps), c.hidden_dropout_prob
    kinds = frozenset(c.get("pos_att_type", [])) & {"c2p", "p2c"}
    if not kinds:
        raise_problems(["config.json: pos_att_type names neither c2p nor p2c: without them it is BERT"])
    longest = c.get("max_relative_positions", -1)
    positions = c.max_position_embeddings
    longest = longest if longest > 0 else positions
    buckets = c.get("position_buckets", -1)
    normed = ln if "layer_norm" in c.get("norm_rel_ebd", "none").lower() else None
    head_dim = c.get("attention_head_size", c.quotient("hidden_size", "num_attention_heads"))
    own = not c.get("share_att_key", False)
    usual = {
        "dropout": c.attention_probs_dropout_prob,
        "scale": 1.0 / math.sqrt(head_dim * (1 + len(kinds))),
        "rel_bias": DistanceEmbeddings(buckets if buckets > 0 else longest, buckets > 0, longest, normed),
        "kinds": kinds,
        "maps": ((own, True), (own, True)),
        "position_dropout": rate,
    }
    part = Disentangled(heads, heads, head_dim, causal=False, **usual | attention)
    layer = Layer(part, Dense(c.intermediate_size, c.hidden_act), ln, POST_NORM, rate)
    side = neighbours(c)
    first = replace(layer, norms=POST_NORM | {"side_branch_res"}, side_branch=side) if side else layer
    places = positions if c.get("position_biased_input", True) else None
    embed = Embed(c.vocab_size, places, c.type_vocab_size or None, ln, rate)
    layers = (first, *(layer,) * (c.num_hidden_layers - 1))
    return Spec(c.hidden_size, embed, layers, None, places, c.initializer_range)


def neighbours(c: ConfigReader) -> Neighbours | None:
    """The side branch of DeBERTa v2's first layer; v3 and many others have none."""
    count = c.get("conv_kernel_size", 0)
    if count == 0:
        c.ignore("conv_act", "conv_groups")
        return None
    c.expect("conv_groups", 1, "grouped convolutions are not implemented")
    if count % 2 == 0:
        raise_problems([f"config.json: conv_kernel_size={count}, expected an odd number"])
    return Neighbours(count, c.get("conv_act", "tanh"), c.hidden_dropout_prob)


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "encoder.layer.{i}.", "layers.{i}."
    hf_attn, attn = hf + "attention.self.", jaxft + "attn."
    return [
        WeightRule("embeddings.word_embeddings", "embed.tokens", embedding),
        WeightRule("embeddings.position_embeddings", "embed.positions", embedding),
        WeightRule("embeddings.token_type_embeddings", "embed.types", embedding),
        WeightRule("embeddings.LayerNorm", "embed.norm", norm),
        WeightRule("encoder.rel_embeddings", "rel_bias.table", embedding),
        WeightRule("encoder.LayerNorm", "rel_bias.norm", norm),
        WeightRule("encoder.conv.conv", "layers.0.side_branch", linear),
        WeightRule("encoder.conv.LayerNorm", "layers.0.norms.side_branch_res", norm),
        WeightRule(hf_attn + "query_proj", attn + "q", linear),
        WeightRule(hf_attn + "key_proj", attn + "k", linear),
        WeightRule(hf_attn + "value_proj", attn + "v", linear),
        WeightRule(hf_attn + "pos_key_proj", attn + "position_k", linear),
        WeightRule(hf_attn + "pos_query_proj", attn + "position_q", linear),
        WeightRule(hf + "attention.output.dense", attn + "o", linear),
        WeightRule(hf + "attention.output.LayerNorm", jaxft + "norms.attn_res", norm),
        WeightRule(hf + "intermediate.dense", jaxft + "mlp.up", linear),
        WeightRule(hf + "output.dense", jaxft + "mlp.down", linear),
        WeightRule(hf + "output.LayerNorm", jaxft + "norms.mlp_res", norm),
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    tied = c.get("tie_word_embeddings", True)
    rate, pooler = c.get("cls_dropout", c.hidden_dropout_prob), Pooler(c.pooler_hidden_act, c.pooler_dropout)
    if kind == "none":
        return HeadRules(None)
    if kind in TEXT_LEVEL:
        rules = [WeightRule("pooler.dense", "head.pooler.dense", linear), WeightRule("classifier", "head.out", linear)]
        return HeadRules(Classifier(classes, pooler, dropout=rate), rules)
    if kind == "token-classification":
        return HeadRules(
            Classifier(classes, dropout=c.hidden_dropout_prob), [WeightRule("classifier", "head.out", linear)]
        )
    if kind == "question-answering":
        return HeadRules(Classifier(classes), [WeightRule("qa_outputs", "head.out", linear)])
    c.expect("legacy", True, "the newer masked language model head is not implemented")
    return masked_lm_head(
        tied,
        Transform(c.hidden_act, LayerNorm(c.layer_norm_eps)),
        tokens="deberta.embeddings.word_embeddings",
        dense="cls.predictions.transform.dense",
        layer_norm="cls.predictions.transform.LayerNorm",
        output="cls.predictions.decoder",
        bias="cls.predictions.bias",
    )


FAMILY = Family(
    "deberta.",
    architectures("DebertaV2", ENCODER_HEADS),
    spec,
    rules,
    head,
    buffers=(r"embeddings\.position_(ids|embeddings\.weight)",),
    other_heads=(r"cls\..*", r"(lm|mask)_predictions\..*", r"classifier\..*", r"qa_outputs\..*", r"pooler\..*"),
)
