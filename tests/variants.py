"""Settings of families beside their usual ones in zoo.py; docs/families.md lists them."""

VARIANTS = {
    "layers that share weights, one group": ("albert", "masked-lm", {"num_hidden_groups": 1}),
    "embeddings of the model's width": ("electra", "masked-lm", {"embedding_size": 24}),
    "key heads for groups of queries": ("falcon", "causal-lm", {"new_decoder_architecture": True, "num_kv_heads": 1}),
    "scores that fall with the distance": ("falcon", "causal-lm", {"alibi": True, "bias": True}),
    "slopes that are rounded": ("falcon", "none", {"alibi": True, "multi_query": False, "num_attention_heads": 12}),
    "one norm for two": ("falcon", "causal-lm", {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}),
    "a key for every query": ("falcon", "causal-lm", {"multi_query": False, "bias": True}),
    "one after the other": ("falcon", "causal-lm", {"parallel_attn": False}),
    "one behind the other": ("gpt_neox", "causal-lm", {"use_parallel_residual": False, "attention_bias": False}),
    "input and output tied": ("gpt_neox", "causal-lm", {"tie_word_embeddings": True}),
    "norms behind the sum": ("opt", "causal-lm", {"do_layer_norm_before": False}),
    "embeddings of another width": ("opt", "causal-lm", {"word_embed_proj_dim": 20, "do_layer_norm_before": False}),
    "embeddings of another width, and a norm": ("opt", "sequence-classification", {"word_embed_proj_dim": 20}),
    "no parameters in norms": ("opt", "causal-lm", {"layer_norm_elementwise_affine": False, "enable_bias": False}),
    "side by side": ("stablelm", "causal-lm", {"use_parallel_residual": True}),
    "biases": (
        "modernbert",
        "masked-lm",
        {name + "_bias": True for name in ("norm", "attention", "mlp", "classifier")},
    ),
    "the mean of a text": ("modernbert", "sequence-classification", {"classifier_pooling": "mean"}),
    "a map of distances as keys": (
        "deberta_v2",
        "none",
        {"pos_att_type": ["c2p"], "share_att_key": False, "position_buckets": -1, "norm_rel_ebd": "none"},
    ),
    "a map of distances as queries": (
        "deberta_v2",
        "none",
        {"pos_att_type": "p2c", "share_att_key": False, "position_biased_input": True, "max_relative_positions": -1},
    ),
    "a convolution beside the first layer": ("deberta_v2", "masked-lm", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "texts that begin with their last token": ("mbart", "sequence-classification", {"decoder_start_token_id": 9}),
    "only what comes before": ("xlnet", "none", {"attn_type": "uni", "clamp_len": 4}),
    "no window": ("mistral", "causal-lm", {"sliding_window": None}),
    "tied": ("qwen2", "causal-lm", {"tie_word_embeddings": True}),
    "untied": ("gemma", "causal-lm", {"tie_word_embeddings": False}),
    "former name of a scheme": (
        "llama",
        "causal-lm",
        {"rope_parameters": {"type": "linear", "rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "no cap": ("gemma2", "causal-lm", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "four heads": ("bloom", "causal-lm", {"n_head": 4}),
    "a key for every head": (
        "llama",
        "causal-lm",
        {"num_key_value_heads": 3, "attention_bias": True, "mlp_bias": True},
    ),
    "gated": ("t5", "seq2seq-lm", {"feed_forward_proj": "gated-gelu"}),
    "states that are not scaled": ("t5", "seq2seq-lm", {"tie_word_embeddings": False}),
    "a table of tokens for each language": (
        "marian",
        "seq2seq-lm",
        {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 110},
    ),
    "a scale for each head's norm": (
        "cohere",
        "causal-lm",
        {"use_qk_norm": True, "num_attention_heads": 4, "num_key_value_heads": 2},
    ),
    "heads of another width": ("llama", "sequence-classification", {"head_dim": 10}),
}

STRETCHED = {"rope_theta": 100.0, "factor": 3.0, "original_max_position_embeddings": 8}

SCHEMES = {
    "default": {"rope_type": "default", "rope_theta": 100.0},
    "linear": {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 3.0},
    "llama3": {"rope_type": "llama3", **STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"rope_type": "yarn", **STRETCHED},
    "yarn (all settings)": {
        "rope_type": "yarn",
        **STRETCHED,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "mscale": 0.8,
        "mscale_all_dim": 0.5,
        "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope",
        **STRETCHED,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 3.0, 4.0],
    },
}

# And why.
KNOWN_GAPS = {
    ("xlnet", "causal-lm"): "which needs a second stream: in the first each place sees the token that it should guess",
}
