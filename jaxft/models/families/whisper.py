"""Whisper (Radford et al. 2023): pre-norm BART with an encoder of mel spectrograms."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import HeadRules, OneSided, WeightRule, architectures, embedding, linear
from jaxft.models.families import bart
from jaxft.models.heads import LanguageModel, MeanPoolClassifier
from jaxft.models.layers.attention import Attention, CrossAttention
from jaxft.models.layers.basic import Dense, Embed
from jaxft.models.layers.patches import AudioFrames
from jaxft.models.layers.sinusoids import to_the_last
from jaxft.models.spec import PRE_NORM, Layer, Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("scale_embedding", False, "transformers does not scale them")
    c.ignore("apply_spec_augment")  # used in training only, like the masks' settings
    c.ignore("mask_time_prob", "mask_time_length", "mask_time_min_masks", "median_filter_width")
    c.ignore("mask_feature_prob", "mask_feature_length", "mask_feature_min_masks")
    c.ignore("encoder_layerdrop", "decoder_layerdrop")  # used in training only
    c.ignore("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids")  # used in generation only
    c.ignore("use_weighted_layer_sum", "classifier_proj_size")  # read with another head

    def layers(side: str, decodes: bool) -> tuple[Layer, ...]:
        heads = side + "_attention_heads"
        sizes = getattr(c, heads), getattr(c, heads), c.quotient("d_model", heads)
        usual = {"bias": frozenset("qvo"), "dropout": c.attention_dropout}
        hidden = getattr(c, side + "_ffn_dim")
        mlp = Dense(hidden, c.activation_function, dropout=c.activation_dropout)
        cross = CrossAttention(*sizes, **usual) if decodes else None
        norms = PRE_NORM | {"cross_in"} if decodes else PRE_NORM
        layer = Layer(Attention(*sizes, causal=decodes, **usual), mlp, bart.LN, norms, c.dropout, cross=cross)
        return (layer,) * getattr(c, side + "_layers")

    frames = AudioFrames(c.num_mel_bins, c.max_source_positions, "gelu", to_the_last, c.dropout)
    encoder = Spec(c.d_model, frames, layers("encoder", False), bart.LN, c.max_source_positions, c.init_std)
    embed = Embed(c.vocab_size, c.max_target_positions, dropout=c.dropout)
    return replace(
        encoder,
        embed=embed,
        layers=layers("decoder", True),
        max_positions=c.max_target_positions,
        encoder=encoder,
        decoder_start=c.decoder_start_token_id,
    )


def rules(c: ConfigReader) -> list[WeightRule]:
    return [
        WeightRule("decoder.embed_tokens", "embed.tokens", embedding),
        WeightRule("encoder.conv1", "encoder.embed.first", linear),
        WeightRule("encoder.conv2", "encoder.embed.second", linear),
        *bart.rules(c, pre_norm=True)[1:],
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    tied = c.get("tie_word_embeddings", True)
    if kind == "none":
        return HeadRules(None)
    if kind == "audio-classification":
        c.expect("use_weighted_layer_sum", False, "a weighted sum of all layers' outputs is not implemented")
        rules = [WeightRule("projector", "head.project", linear), WeightRule("classifier", "head.out", linear)]
        return HeadRules(MeanPoolClassifier(classes, c.classifier_proj_size), rules)
    ties = {"proj_out.weight": "model.decoder.embed_tokens.weight"} if tied else {}
    return HeadRules(LanguageModel(tied, False), [WeightRule("proj_out", "head.table", embedding)], ties)


FAMILY = replace(
    bart.FAMILY,
    architectures=architectures("Whisper", "none seq2seq-lm causal-lm audio-classification"),
    spec=spec,
    rules=rules,
    head=head,
    prefixes=(("audio-classification", ""),),
    one_sided=(*bart.FAMILY.one_sided, OneSided("audio-classification", "encoder", None)),
    other_heads=(r"proj_out\..*", r"projector\..*", r"classifier\..*", r"layer_weights"),
)
