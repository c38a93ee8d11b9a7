"""StableLM (Bellagente et al. 2024): Llama with layer norms and partial rotary positions."""

from dataclasses import replace

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import llama
from jaxft.models.layers.basic import LayerNorm
from jaxft.models.layers.rotary import read_rotary
from jaxft.models.spec import PRE_NORM, Spec


def spec(c: ConfigReader) -> Spec:
    c.expect("qk_layernorm", False, "QK norms are not implemented here")
    layer = llama.layer(
        c,
        frozenset(["attn_in"]) if c.use_parallel_residual else PRE_NORM,
        LayerNorm(c.layer_norm_eps),
        bias=frozenset("qkv" if c.use_qkv_bias else ""),
        rotary=read_rotary(c, c.hidden_size // c.num_attention_heads, partial=True),
    )
    layer = replace(
        layer, parallel=c.use_parallel_residual, dropout=c.hidden_dropout, dropout_places=frozenset(["mlp_out"])
    )
    return llama.stack(c, (layer,) * c.num_hidden_layers)


FAMILY = replace(llama.FAMILY, architectures=architectures("StableLm", llama.HEADS), spec=spec)
