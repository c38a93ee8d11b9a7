"""ViT (Dosovitskiy et al. 2021): a pre-norm encoder of image patches."""

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import (
    ConvPatch,
    Family,
    HeadRules,
    Unsqueezed,
    WeightRule,
    architectures,
    linear,
    norm,
)
from jaxft.models.heads import Classifier, Pooler
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, LayerNorm
from jaxft.models.layers.patches import Patches
from jaxft.models.spec import PRE_NORM, Layer, Spec


def spec(c: ConfigReader) -> Spec:
    c.ignore("encoder_stride")  # for a head that generates images
    heads = c.num_attention_heads
    head_dim = c.get("head_dim", c.hidden_size // heads)
    attention = Attention(
        heads,
        heads,
        head_dim,
        causal=False,
        bias=frozenset("qkvo" if c.qkv_bias else "o"),
        dropout=c.attention_probs_dropout_prob,
    )
    ln, rate = LayerNorm(c.layer_norm_eps), c.hidden_dropout_prob
    layer = Layer(attention, Dense(c.intermediate_size, c.hidden_act), ln, PRE_NORM, rate)
    embed = Patches(*c.pair("image_size"), c.pair("patch_size"), c.num_channels, dropout=rate)
    return Spec(c.hidden_size, embed, (layer,) * c.num_hidden_layers, ln, embed.length, c.initializer_range)


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "encoder.layer.{i}.", "layers.{i}."
    attention = hf + "attention.attention."
    patch = ConvPatch((c.num_channels, *c.pair("patch_size")))
    return [
        WeightRule("embeddings.cls_token", "embed.whole", Unsqueezed(2)),
        WeightRule("embeddings.position_embeddings", "embed.positions", Unsqueezed(1)),
        WeightRule("embeddings.patch_embeddings.projection", "embed.patches", patch),
        WeightRule(hf + "layernorm_before", jaxft + "norms.attn_in", norm),
        WeightRule(attention + "query", jaxft + "attn.q", linear),
        WeightRule(attention + "key", jaxft + "attn.k", linear),
        WeightRule(attention + "value", jaxft + "attn.v", linear),
        WeightRule(hf + "attention.output.dense", jaxft + "attn.o", linear),
        WeightRule(hf + "layernorm_after", jaxft + "norms.mlp_in", norm),
        WeightRule(hf + "intermediate.dense", jaxft + "mlp.up", linear),
        WeightRule(hf + "output.dense", jaxft + "mlp.down", linear),
        WeightRule("layernorm", "norm", norm),
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    c.expect("pooler_output_size", c.hidden_size, "a pooler of another width is not implemented")
    if kind == "none":
        return HeadRules(Pooler(c.pooler_act), [WeightRule("vit.pooler.dense", "head.dense", linear)])
    return HeadRules(Classifier(classes), [WeightRule("classifier", "head.out", linear)])


FAMILY = Family(
    "vit.",
    architectures("ViT", "none image-classification"),
    spec,
    rules,
    head,
    buffers=(r"embeddings\.mask_token",),
    other_heads=(r"classifier\..*", r"pooler\..*", r"decoder\..*"),
    modules=(
        (r"encoder\.layer\.", "layers."),
        (r"attention\.attention\.(query|key|value)", lambda found: f"attention.{found[1][0]}_proj"),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"output\.dense", "mlp.fc2"),
    ),
)
