"""CLIP (Radford et al. 2021): a causal text encoder and a ViT, with a contrastive head.

Image classification uses the ViT alone, with a head on the mean of its patches.
"""

from dataclasses import dataclass

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import (
    ConvPatch,
    Family,
    HeadRules,
    OneSided,
    WeightRule,
    architectures,
    embedding,
    linear,
    norm,
    tensor,
)
from jaxft.models.heads import Classifier, ClassifierLayer, Contrast
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm, Unused
from jaxft.models.layers.patches import Patches
from jaxft.models.spec import PRE_NORM, Layer, Spec


def layers(c: ConfigReader, causal: bool) -> tuple[Layer, ...]:
    c.ignore("initializer_factor", "projection_dim")  # for new weights; for one tower alone
    heads = c.num_attention_heads
    head_dim = c.quotient("hidden_size", "num_attention_heads")
    attention = Attention(heads, heads, head_dim, causal=causal, dropout=c.attention_dropout)
    layer = Layer(attention, Dense(c.intermediate_size, c.hidden_act), LayerNorm(c.layer_norm_eps), PRE_NORM)
    return (layer,) * c.num_hidden_layers


def spec(c: ConfigReader) -> Spec:
    c.ignore("initializer_factor")
    text, image = c.part("text_config"), c.part("vision_config")
    ln = LayerNorm(image.layer_norm_eps)
    pixels, patch = image.pair("image_size"), image.pair("patch_size")
    patches = Patches(*pixels, patch, image.num_channels, bias=False, norm=ln)
    std = image.initializer_range
    vision = Spec(image.hidden_size, patches, layers(image, False), None, patches.length, std)
    longest = text.max_position_embeddings
    return Spec(
        text.hidden_size,
        Embed(text.vocab_size, longest),
        layers(text, True),
        LayerNorm(text.layer_norm_eps),
        longest,
        text.initializer_range,
        pool_token="last",
        encoder=vision,
        # The first checkpoints have 2; transformers then takes the largest token id of each text as its end.
        end=text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id,
    )


def rules(c: ConfigReader) -> list[WeightRule]:
    image = c.part("vision_config")
    patch = ConvPatch((image.num_channels, *image.pair("patch_size")))
    vision = "vision_model."
    return [
        WeightRule("text_model.embeddings.token_embedding", "embed.tokens", embedding),
        WeightRule("text_model.embeddings.position_embedding", "embed.positions", embedding),
        *tower("text_model.", ""),
        WeightRule("text_model.final_layer_norm", "norm", norm),
        WeightRule(vision + "embeddings.class_embedding", "encoder.embed.whole", tensor),
        WeightRule(vision + "embeddings.position_embedding.weight", "encoder.embed.positions", tensor),
        WeightRule(vision + "embeddings.patch_embedding", "encoder.embed.patches", patch),
        WeightRule(vision + "pre_layrnorm", "encoder.embed.norm", norm),
        *tower(vision, "encoder."),
    ]


def tower(hf: str, jaxft: str) -> list[WeightRule]:
    hf, jaxft = hf + "encoder.layers.{i}.", jaxft + "layers.{i}."
    return [
        WeightRule(hf + "layer_norm1", jaxft + "norms.attn_in", norm),
        *(WeightRule(f"{hf}self_attn.{name}_proj", f"{jaxft}attn.{name}", linear) for name in "qkv"),
        WeightRule(hf + "self_attn.out_proj", jaxft + "attn.o", linear),
        WeightRule(hf + "layer_norm2", jaxft + "norms.mlp_in", norm),
        WeightRule(hf + "mlp.fc1", jaxft + "mlp.up", linear),
        WeightRule(hf + "mlp.fc2", jaxft + "mlp.down", linear),
    ]


@dataclass(frozen=True, kw_only=True)
class PatchClassifier(Classifier):
    """A classifier of images; checkpoints have a norm of the class token as well, which this head does not use."""

    unused_norm: LayerNorm

    def build(self, width: int, vocab: int) -> "PatchClassifierLayer":
        return PatchClassifierLayer(self, width, vocab)


class PatchClassifierLayer(ClassifierLayer):
    def __init__(self, part: PatchClassifier, width: int, vocab: int):
        super().__init__(part, width, vocab)
        self.norm = Unused(part.unused_norm).build(width)


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    image = c.part("vision_config")
    ln, layer_norm = LayerNorm(image.layer_norm_eps), WeightRule("vision_model.post_layernorm", "head.norm", norm)
    if kind == "image-classification":
        c.ignore("projection_dim", "logit_scale_init_value")
        classifier = PatchClassifier(classes, mean=True, skip=1, unused_norm=ln)
        return HeadRules(classifier, [WeightRule("classifier", "head.out", linear), layer_norm])
    part = Contrast(c.projection_dim, image.hidden_size, ln, c.logit_scale_init_value)
    rules = [
        WeightRule("text_projection", "head.text", linear),
        WeightRule("visual_projection", "head.image", linear),
        layer_norm,
        WeightRule("logit_scale", "head.scale", tensor),
    ]
    return HeadRules(part, rules)


FAMILY = Family(
    "",
    architectures("CLIP", "none image-classification"),
    spec,
    rules,
    head,
    buffers=(r"(text|vision)_model\.embeddings\.position_ids",),
    other_heads=(r"(text|visual)_projection\.weight", "logit_scale", r"classifier\..*"),
    one_sided=(OneSided("image-classification", "encoder", None),),
)
