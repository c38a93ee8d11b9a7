"""Small models of every family, made by transformers: odd sizes, and settings that use every part."""

import importlib

import numpy as np
import torch
import transformers
from batches import Inputs
from conftest import byte_bpe, save_perturbed, wordpiece

from jaxft.models.checkpoint.pretrained import family_names

FAMILIES = family_names()
SIZES = {
    "vocab_size": 125,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 1}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
WINDOWED = {"use_sliding_window": True, "sliding_window": 5, "layer_types": SLIDING}
PARTIAL = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
GEMMA = {"head_dim": 10, **GROUPED}
SIDES = {
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 32,
    "d_model": 24,
    "scale_embedding": True,
    **dict.fromkeys(["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]),
}
T5 = {
    "d_model": 24,
    "d_kv": 10,
    "d_ff": 40,
    "num_heads": 3,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
    **dict.fromkeys(
        ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"]
    ),
}
MORE = {
    "albert": {"embedding_size": 14, "num_hidden_layers": 4, "num_hidden_groups": 2},
    "bloom": {"n_layer": 3, "n_head": 3, "intermediate_size": None, "max_position_embeddings": None},
    "bart": SIDES,
    "clip": {
        **dict.fromkeys(SIZES),
        "text_config": {
            **SIZES,
            "num_hidden_layers": 2,
            "eos_token_id": 3,  # 2 stands for the largest number of a text
            "projection_dim": 10,
        },
        "vision_config": {
            "hidden_size": 20,
            "intermediate_size": 30,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 13,
            "patch_size": 4,
            "projection_dim": 10,
        },
        "projection_dim": 10,
    },
    "cohere": {**GROUPED, "logit_scale": 0.3},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 2},
    "deberta_v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 4,
        "max_relative_positions": 9,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
    },
    "distilbert": {"hidden_dim": 40, "intermediate_size": None},
    "electra": {"embedding_size": 14},
    "falcon": {"ffn_hidden_size": 40, "intermediate_size": None},
    "gemma": GEMMA,
    "gemma2": {
        **GEMMA,
        "sliding_window": 5,
        "layer_types": SLIDING,
        "query_pre_attn_scalar": 7,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 1.5,
    },
    "gemma3_text": {
        **GEMMA,
        "sliding_window": 5,
        "layer_types": SLIDING,
        "query_pre_attn_scalar": 7,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
        },
    },
    "gpt2": {"n_inner": 40, "intermediate_size": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1], [["local"], 1]], "window_size": 5},
    "gpt_neox": {"rope_parameters": PARTIAL},
    "gpt_oss": {
        **GROUPED,
        "head_dim": 10,
        "sliding_window": 5,
        "layer_types": SLIDING,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "swiglu_limit": 0.5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    },
    "gptj": {"rotary_dim": 4, "n_inner": 40, "intermediate_size": None},
    "granite": {
        **GROUPED,
        "embedding_multiplier": 1.7,
        "logits_scaling": 3.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.2,
    },
    "llama": GROUPED,
    "m2m_100": SIDES,
    "marian": {**SIDES, "decoder_start_token_id": 3},
    "mbart": SIDES,
    "mistral": {**GROUPED, "sliding_window": 5},
    "mixtral": {**GROUPED, "sliding_window": 5, "num_local_experts": 5},
    "mt5": T5,
    "modernbert": {
        "local_attention": 8,
        "layer_types": SLIDING,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
        },
    },
    "olmo": {**GROUPED, "clip_qkv": 0.3},
    "olmo2": GROUPED,
    "opt": {"ffn_dim": 40, "word_embed_proj_dim": 24, "intermediate_size": None},
    "pegasus": SIDES,
    "phi": {**GROUPED, "rope_parameters": PARTIAL},
    "phi3": {**GROUPED, "sliding_window": 5, "rope_parameters": PARTIAL},
    "qwen2": {**GROUPED, **WINDOWED},
    "qwen2_moe": {
        **GROUPED,
        **WINDOWED,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 20,
        "mlp_only_layers": [1],
    },
    "qwen3": {**GROUPED, **WINDOWED, "head_dim": 10},
    "qwen3_moe": {
        **GROUPED,
        "head_dim": 10,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "norm_topk_prob": True,
        "decoder_sparse_step": 2,
    },
    "smollm3": {**GROUPED, **WINDOWED, "no_rope_layers": [1, 0, 1]},
    "stablelm": {**GROUPED, "use_qkv_bias": True, "rope_parameters": PARTIAL},
    "t5": T5,
    "umt5": T5,
    "vit": {
        "image_size": [13, 10],
        "patch_size": [4, 3],
        **dict.fromkeys(["vocab_size", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"]),
    },
    "whisper": {
        **SIDES,
        "scale_embedding": False,
        "num_mel_bins": 7,
        "max_source_positions": 11,
        "max_target_positions": 64,
        "max_position_embeddings": None,
    },
    "xlnet": {
        "d_model": 24,
        "n_layer": 3,
        "n_head": 3,
        "d_inner": 40,
        **dict.fromkeys(
            ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"]
        ),
    },
}
TOKENIZERS = {"encoder": wordpiece, "decoder": lambda: byte_bpe(bos="<s>", eos="</s>")}


def heads_of(family: str) -> dict[str, str]:
    """Head -> transformers' class, of a family of jaxft."""
    return importlib.import_module(f"jaxft.models.families.{family}").FAMILY.architectures


SIGNALS = {"clip", "vit", "whisper"}  # of images and sounds
PAIRS = [(family, head) for family in FAMILIES for head in heads_of(family)]


def model_type(family: str) -> str:
    return family.replace("_", "-") if family.replace("_", "-") in transformers.CONFIG_MAPPING else family


def needs(family: str, head: str) -> dict:
    """Settings without which the model has not this head: an encoder's attention, turned into a decoder's."""
    return {"is_decoder": True} if head == "causal-lm" and "masked-lm" in heads_of(family) else {}


def make(family: str, head: str, directory, **more) -> transformers.PreTrainedModel:
    """A perturbed random model, also written to the directory. `more` are further settings."""
    settings = SIZES | MORE.get(family, {}) | {"num_labels": 2 if head == "question-answering" else 5}
    settings = {name: value for name, value in settings.items() if value is not None} | needs(family, head) | more
    config = transformers.AutoConfig.for_model(model_type(family), **settings)
    config._attn_implementation = "eager"
    theirs = getattr(transformers, heads_of(family)[head])(config).eval()
    tokenizer = TOKENIZERS["encoder" if "masked-lm" in heads_of(family) else "decoder"]()
    save_perturbed(theirs, tokenizer, directory)
    return theirs


def scores_of_signal(theirs, name: str, signal, decoder_ids=None) -> tuple[torch.Tensor, torch.Tensor | None, None]:
    """As `logits_of`, of an image or a sound, the argument `name`."""
    apart = hasattr(theirs, "text_model")
    texts = "input_ids" if apart else "decoder_input_ids"
    more = {} if decoder_ids is None else {texts: torch.tensor(decoder_ids)[None].long()}
    given = {name: torch.tensor(signal)[None], **more}
    sides = ("encoder", "vision_model") if type(theirs).__name__.endswith("Classification") else ()
    backbone = next((getattr(theirs, side) for side in sides if hasattr(theirs, side)), theirs.base_model)
    base = backbone(**given)
    hidden = (base.text_model_output if apart else base).last_hidden_state[0]
    logits = theirs(**given).get("logits")
    return hidden, None if logits is None else logits.reshape(-1, logits.shape[-1]), None


def logits_of(theirs, ids, decoder_ids=None) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(hidden states (length, width), logits (slots, scores) or None, scores of pairs (1, classes) or None) of one text
    without padding.

    `decoder_ids` are what the decoder reads, if that is another text.
    """
    ids = torch.tensor(ids)[None].long()
    more = {} if decoder_ids is None else {"decoder_input_ids": torch.tensor(decoder_ids)[None].long()}
    out = theirs(ids[None] if "ForMultipleChoice" in type(theirs).__name__ else ids, output_hidden_states=True, **more)
    hidden = (out.get("decoder_hidden_states") or out.hidden_states)[-1][0]
    if "start_logits" in out:
        return hidden, torch.stack([out.start_logits[0], out.end_logits[0]], -1), None
    if "prediction_logits" in out:
        return hidden, out.prediction_logits[0], out.get("seq_relationship_logits", out.get("sop_logits"))
    logits = out.get("logits")
    if type(theirs).__name__.endswith("ForPreTraining"):  # one score for each token
        return hidden, logits[0][:, None], None
    return hidden, None if logits is None else logits.reshape(-1, logits.shape[-1]), None


def expected_of(theirs, argument: str, inputs: Inputs) -> list[tuple]:
    """What `logits_of` gives of each text, or `scores_of_signal` of each image or sound, by the model's `argument`."""
    pairs = zip(inputs.single, inputs.decoded, strict=True)
    if argument == "input_ids":
        return [logits_of(theirs, *pair) for pair in pairs]
    return [scores_of_signal(theirs, argument, *pair) for pair in pairs]


def flax_tree(tensors: dict[str, np.ndarray]) -> dict:
    """As transformers' Flax models kept them."""
    tree: dict = {}
    for name, array in tensors.items():
        *path, last = name.split(".")
        if last == "weight":
            is_table = "embeddings" in name and "LayerNorm" not in name or path[-1] in ("wte", "wpe", "embed_tokens")
            last = "embedding" if is_table else "kernel" if array.ndim == 2 else "scale"
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = array.T if last == "kernel" else array
    return tree
