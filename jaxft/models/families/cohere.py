"""Command R (Cohere 2024): Llama with attention and MLP side by side behind one layer norm, neighbours that turn
together, and scaled logits."""

from dataclasses import replace

from jaxft.models.families import llama
from jaxft.models.hf import architectures
from jaxft.models.parts import LayerNorm
from jaxft.models.rotary import read_rotary

NORMS = {"input_layernorm": "attn_in"}


def spec(c):
    c.expect("use_qk_norm", False, "norms of query and key heads are not implemented here")
    rotary = read_rotary(c, c.hidden_size // c.num_attention_heads, pairs="neighbours")
    norm = LayerNorm(c.layer_norm_eps, bias=False)
    layer = replace(llama.layer(c, frozenset(NORMS.values()), norm, rotary=rotary), parallel=True)
    return llama.stack(c, (layer,) * c.num_hidden_layers)


def rows(c):
    return llama.rows(c, NORMS)


def head(c, kind, classes):
    return llama.FAMILY.head(c, kind, classes, scale=c.logit_scale)


FAMILY = replace(llama.FAMILY, architectures=architectures("Cohere", "none causal-lm"), spec=spec, rows=rows, head=head)
