"""GPT-J (Wang and Komatsuzaki 2021): parallel attention and MLP after one layer norm, partial interleaved rotary
positions."""

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import (
    Family,
    HeadRules,
    WeightRule,
    architectures,
    embedding,
    linear,
    norm,
    tensor,
)
from jaxft.models.heads import Classifier, LanguageModel
from jaxft.models.layers.attention import Attention
from jaxft.models.layers.basic import Dense, Embed, LayerNorm
from jaxft.models.layers.rotary import Rotary
from jaxft.models.spec import Layer, Spec


def spec(c: ConfigReader) -> Spec:
    c.ignore("n_positions")  # rotary positions need no table
    c.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels")
    c.ignore("summary_first_dropout")  # for a head that no longer exists
    head_dim = c.quotient("n_embd", "n_head")
    attention = Attention(
        c.n_head,
        c.n_head,
        head_dim,
        causal=True,
        rotary=Rotary(c.get("rotary_dim", head_dim), 1e4, pairs="neighbours"),
        bias=frozenset(),
        dropout=c.attn_pdrop,
    )
    ln = LayerNorm(c.layer_norm_epsilon)
    mlp = Dense(c.get("n_inner", 4 * c.n_embd), c.activation_function)
    layer = Layer(attention, mlp, ln, frozenset(["attn_in"]), c.resid_pdrop, parallel=True)
    embed = Embed(c.vocab_size, dropout=c.embd_pdrop)
    return Spec(c.n_embd, embed, (layer,) * c.n_layer, ln, None, c.initializer_range, pool_token="last")


def rules(c: ConfigReader) -> list[WeightRule]:
    hf, jaxft = "h.{i}.", "layers.{i}."
    return [
        WeightRule("wte", "embed.tokens", embedding),
        WeightRule(hf + "ln_1", jaxft + "norms.attn_in", norm),
        WeightRule(hf + "attn.q_proj", jaxft + "attn.q", linear),
        WeightRule(hf + "attn.k_proj", jaxft + "attn.k", linear),
        WeightRule(hf + "attn.v_proj", jaxft + "attn.v", linear),
        WeightRule(hf + "attn.out_proj", jaxft + "attn.o", linear),
        WeightRule(hf + "mlp.fc_in", jaxft + "mlp.up", linear),
        WeightRule(hf + "mlp.fc_out", jaxft + "mlp.down", linear),
        WeightRule("ln_f", "norm", norm),
    ]


def head(c: ConfigReader, kind: str, classes: int) -> HeadRules:
    c.expect("tie_word_embeddings", False, "the output matrix is separate")
    if kind == "none":
        return HeadRules(None)
    if kind == "sequence-classification":
        return HeadRules(Classifier(classes, bias=False), [WeightRule("score", "head.out", linear)])
    if kind == "question-answering":
        return HeadRules(Classifier(classes), [WeightRule("qa_outputs", "head.out", linear)])
    rules = [WeightRule("lm_head", "head.table", embedding), WeightRule("lm_head.bias", "head.bias", tensor)]
    return HeadRules(LanguageModel(False, True), rules)


FAMILY = Family(
    "transformer.",
    architectures("GPTJ", "none sequence-classification question-answering causal-lm"),
    spec,
    rules,
    head,
    buffers=(r"h\.\d+\.attn\.((masked_)?bias|embed_positions)",),
    other_heads=(r"lm_head\..*", r"score\..*", r"qa_outputs\..*"),
)
