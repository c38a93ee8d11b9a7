"""XLNet (Yang et al. 2019): an encoder with Transformer-XL attention: contents, relative positions, text types.

Permutation language modelling and its two streams are not implemented.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import (
    Family,
    HeadRules,
    TensorMap,
    Unsqueezed,
    WeightRule,
    architectures,
    embedding,
    linear,
    norm,
    tensor,
)
from jaxft.models.heads import KINDS, TEXT_LEVEL, Classifier, Pooler
from jaxft.models.layers.attention import Attention, RematAttentionLayer
from jaxft.models.layers.basic import Dense, Embed, EmbedLayer, LayerNorm, Linear, fold_key, param
from jaxft.models.layers.context import Context
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.kernels.kernel import SoftmaxSpec
from jaxft.models.layers.precision import accumulator
from jaxft.models.layers.relative_bias import rel_shift
from jaxft.models.spec import POST_NORM, Layer, Spec


@dataclass(frozen=True)
class TransformerXLAttention(Attention):
    """Scores of a query with a key, with the sinusoid of their distance, and with equal or different text types.

    Dai et al. 2019, section 3.3; Yang et al. 2019, section 2.5.
    """

    longest: int | None = None  # distances are clipped here
    position_dropout: float | None = None  # on the sinusoids

    def build(self, width: int) -> "TransformerXLAttentionLayer":
        return TransformerXLAttentionLayer(self, width)

    @property
    def has_attn_bias(self) -> bool:
        return True

    @property
    def softmax(self) -> SoftmaxSpec:
        return replace(super().softmax, learned_bias=True)


class TransformerXLAttentionLayer(RematAttentionLayer):
    """The bias of `q` is the one added for products with keys (r_w_bias)."""

    part: TransformerXLAttention

    def __init__(self, part: TransformerXLAttention, width: int):
        super().__init__(part, width)
        self.width, each = width, (part.heads, part.head_dim)
        self.r = Linear(width, part.heads * part.head_dim, ("embed", "heads"), bias=False)
        self.distance_bias = param(each, ("heads", None), "bias", "zeros")
        self.type_bias = param(each, ("heads", None), "bias", "zeros")
        self.types = param((2, *each), (None, "heads", None), "other")  # for equal types, for different types

    def attn_bias(self, q_bthd: jax.Array, k_bshd: jax.Array, context: Context, key: jax.Array | None) -> jax.Array:
        part, dtype = self.part, q_bthd.dtype
        assert self.q.bias is not None, "the family's spec asks for it"
        plain = q_bthd - self.q.bias[...].reshape(part.heads, part.head_dim).astype(dtype)
        sinusoids = dropout(
            self._sinusoids(k_bshd.shape[1]).astype(dtype), part.position_dropout or 0.0, fold_key(key, 1)
        )
        heads = self.r(sinusoids).reshape(-1, part.heads, part.head_dim)
        q = plain + self.distance_bias[...].astype(dtype)
        total = rel_shift(jnp.einsum("bthd,vhd->bhtv", q, heads, preferred_element_type=accumulator(q)), context)
        if context.queries.types is not None and context.keys.types is not None:
            q, types = plain + self.type_bias[...].astype(dtype), self.types[...].astype(dtype)
            of_type = jnp.einsum("bthd,yhd->bhty", q, types, preferred_element_type=accumulator(q))
            differ = context.queries.types[..., None] != context.keys.types[:, None, :]
            total += jnp.where(differ[:, None], of_type[..., 1:], of_type[..., :1])
        return total * part.softmax.scale

    def _sinusoids(self, length: int) -> jax.Array:
        """Float32 (2 length - 1, width): sinusoids of the distances from key to query, first key first."""
        back = jnp.arange(length - 1, -length, -1, dtype=float)
        if self.part.longest:
            back = jnp.clip(back, -self.part.longest, self.part.longest)
        angles = back[:, None] / 10000 ** (jnp.arange(0, self.width, 2, dtype=float) / self.width)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


@dataclass(frozen=True)
class Embeddings(Embed):
    """Token embeddings, and the mask embedding of the second stream, which is stored but not used."""

    def build(self, width: int) -> "EmbeddingsLayer":
        return EmbeddingsLayer(self, width)


class EmbeddingsLayer(EmbedLayer):
    def __init__(self, part: Embeddings, width: int):
        super().__init__(part, width)
        self.mask = param((width,), ("embed",), "other")


def spec(c: ConfigReader) -> Spec:
    c.expect("bi_data", False, "bidirectional data is not implemented")
    c.ignore("mem_len", "reuse_len", "use_mems_eval", "use_mems_train", "same_length")  # memories of earlier segments
    c.ignore("start_n_top", "end_n_top")  # for the beam-search question answering head
    head_dim, rate, ln = c.quotient("d_model", "n_head"), c.dropout, LayerNorm(c.layer_norm_eps)
    longest = c.clamp_len if c.get("clamp_len", -1) > 0 else None
    causal = c.get("attn_type", "bi") == "uni"
    attention = TransformerXLAttention(
        c.n_head, c.n_head, head_dim, causal, bias=frozenset("q"), dropout=rate, longest=longest, position_dropout=rate
    )
    c.expect("d_head", head_dim, "transformers uses d_model / n_head")
    layer = Layer(attention, Dense(c.d_inner, c.ff_activation, dropout=rate), ln, POST_NORM, rate)
    embed = Embeddings(c.vocab_size, dropout=rate)
    return Spec(
        c.d_model, embed, (layer,) * c.n_layer, None, None, c.initializer_range, pool_token="last", dropout=rate
    )


@dataclass(frozen=True)
class PerHead:
    """A matrix or vector stored with an axis of heads: (width, heads, head_dim), of the transpose if `transposed`."""

    heads: int
    transposed: bool = False

    @property
    def outputs_axis(self) -> int | None:
        return None  # PEFT's adapters know no matrix of three axes

    def tensors(self, hf: str, jaxft: str) -> list[TensorMap]:
        return [TensorMap(hf, (jaxft,), self)]

    def split(self, array: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
        flat = array.reshape(*array.shape[:-2], -1)
        return [flat.T if self.transposed else flat]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        flat = arrays[0].T if self.transposed else arrays[0]
        return flat.reshape(*flat.shape[:-1], self.heads, -1)


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "layer.{i}.", "layers.{i}."
    hf_attn, attn, per_head = hf + "rel_attn.", jaxft + "attn.", PerHead(c.n_head)
    return [
        WeightRule("word_embedding", "embed.tokens", embedding),
        WeightRule("mask_emb", "embed.mask", Unsqueezed(2)),
        *(WeightRule(hf_attn + x, f"{attn}{x}.kernel", per_head) for x in "qkvr"),
        WeightRule(hf_attn + "o", attn + "o.kernel", PerHead(c.n_head, transposed=True)),
        WeightRule(hf_attn + "r_w_bias", attn + "q.bias", per_head),
        WeightRule(hf_attn + "r_r_bias", attn + "distance_bias", tensor),
        WeightRule(hf_attn + "r_s_bias", attn + "type_bias", tensor),
        WeightRule(hf_attn + "seg_embed", attn + "types", tensor),
        WeightRule(hf_attn + "layer_norm", jaxft + "norms.attn_res", norm),
        WeightRule(hf + "ff.layer_1", jaxft + "mlp.up", linear),
        WeightRule(hf + "ff.layer_2", jaxft + "mlp.down", linear),
        WeightRule(hf + "ff.layer_norm", jaxft + "norms.mlp_res", norm),
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    c.ignore("tie_word_embeddings")  # these heads have no output matrix
    c.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout", "summary_first_dropout")
    if kind in TEXT_LEVEL:
        c.expect("summary_type", "last", "only the last token is read")
        c.expect("summary_use_proj", True, "a head without its dense layer is not implemented")
        c.expect("summary_proj_to_labels", False, "the dense layer has the model's width")
        pooler = Pooler(c.get("summary_activation", "tanh"), c.get("summary_first_dropout", 0.0))
        rules = [
            WeightRule("sequence_summary.summary", "head.pooler.dense", linear),
            WeightRule("logits_proj", "head.out", linear),
        ]
        return HeadRules(Classifier(classes, pooler, dropout=c.summary_last_dropout), rules)
    names = {"token-classification": "classifier", "question-answering": "qa_outputs"}
    if kind in names:
        return HeadRules(Classifier(classes), [WeightRule(names[kind], "head.out", linear)])
    return HeadRules(None)


HEADS = "none sequence-classification token-classification multiple-choice"
FAMILY = Family(
    "transformer.",
    architectures("XLNet", HEADS) | {"question-answering": KINDS["question-answering"].format("XLNet") + "Simple"},
    spec,
    rules,
    head,
    other_heads=(
        r"lm_loss\..*",
        r"sequence_summary\..*",
        r"logits_proj\..*",
        r"classifier\..*",
        r"qa_outputs\..*",
        r"(start_logits|end_logits|answer_class)\..*",
    ),
)
