"""What an architecture is: data that a family's file fills in from config.json, and that the stack builds.

A `Layer` has slots; a slot holds a part: a small frozen dataclass with `build(width)`, which gives its module. A family
that needs something unusual writes its own part and puts it into the slot; nothing here asks which family it is.
"""

from dataclasses import dataclass

from jaxft.models.layers.attention import Attention, CrossAttention
from jaxft.models.layers.basic import Unused
from jaxft.models.part import InputPart, NormPart, Part

# The places of a layer where a norm may be: before a sublayer, on its output, after the residual sum (a drawing is in
# docs/architecture.md).
NORM_PLACES = frozenset(
    {"attn_in", "attn_out", "attn_res"}
    | {"cross_in", "cross_out", "cross_res"}
    | {"mlp_in", "mlp_out", "mlp_res", "side_branch_res"}
)
PRE_NORM = frozenset({"attn_in", "mlp_in"})
POST_NORM = frozenset({"attn_res", "mlp_res"})


@dataclass(frozen=True)
class Layer:
    """One block: attention and MLP, each with a residual connection. In a decoder behind an encoder, cross-attention
    between them."""

    attn: Attention
    mlp: Part
    norm: NormPart
    norms: frozenset[str]  # subset of NORM_PLACES
    dropout: float = 0.0  # on each sublayer's output, before the residual sum
    dropout_places: frozenset[str] = frozenset({"attn_out", "cross_out", "mlp_out"})  # sublayers
    parallel: bool = False  # the MLP has attention's input (after the norm `attn_in`, if there is no `mlp_in`)
    residual_multiplier: float = 1.0  # factor of each sublayer's output
    num_repeats: int = 1  # how often the layer runs in a row, with the same weights
    cross: CrossAttention | Unused | None = None  # attention to the encoder's output; unused without an encoder
    side_branch: Part | None = None  # takes the layer's input and is added to its output

    def __post_init__(self) -> None:
        assert self.norms <= NORM_PLACES, f"not among NORM_PLACES: {set(self.norms - NORM_PLACES)}"


@dataclass(frozen=True)
class Spec:
    """A whole backbone."""

    width: int
    embed: InputPart
    layers: tuple[Layer, ...]
    final_norm: Part | None  # after the layers
    max_positions: int | None  # rows of a learned position table; None: no limit but memory
    init_std: float  # standard deviation of newly initialised kernels and embeddings
    pool_token: str = "first"  # the token that classification heads read: "first" or "last" of each text
    dropout: float | None = None  # on the final hidden states; None: none, whatever a run's rate
    encoder: "Spec | None" = None  # whose output this one's layers attend to; if no layer has `cross`, only the head
    output_width: int | None = None  # width of the hidden states that the head reads; None: `width`
    router_aux_coef: float = 0.0  # factor of the load balancing loss (model.py)
    decoder_start: int | str | None = None  # first token of a decoder's text; "last": the text's own last token
    end: int | None = None  # the token by which transformers finds a text's end; None: config.json's eos_token_id

    @property
    def input_side(self) -> "Spec":
        """The backbone that reads the model's inputs: the encoder if there is one."""
        return self.encoder or self

    @property
    def is_dual_encoder(self) -> bool:
        """Whether two backbones, one of texts and `encoder`, meet in the head only."""
        return self.encoder is not None and not any(layer.cross for layer in self.layers)
