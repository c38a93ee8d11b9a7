"""What an architecture is: data that a family's file fills in from config.json, and that the stack builds.

A `Layer` has slots; a slot holds a part: a small frozen dataclass with `build(...) -> nnx.Module`. A family that needs
something unusual writes its own part and puts it into the slot; nothing here asks which family it is.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

# The places of a layer where a norm may stand: before the sublayer, on its output, after the residual sum.
NORM_PLACES = ("attn_in", "attn_out", "attn_res", "cross_in", "cross_res", "mlp_in", "mlp_out", "mlp_res", "beside_res")
PRE_NORM = frozenset({"attn_in", "mlp_in"})
POST_NORM = frozenset({"attn_res", "mlp_res"})


class Part(Protocol):
    """A slot's content: a frozen, hashable dataclass that builds its module for a given model width."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, width: int) -> Any: ...


class InputPart(Part, Protocol):
    """What maps a model's inputs to vectors: tokens, images or sounds."""

    @property
    def vocab(self) -> int:
        """Number of tokens; 0 for images and sounds."""
        ...

    @property
    def types(self) -> int | None:
        """Number of text types, if there are any."""
        ...

    @property
    def shared_embedding(self) -> bool:
        """Whether the token embeddings are the decoder's."""
        ...

    @property
    def argument(self) -> str:
        """The input's name in transformers' models."""
        ...


@dataclass(frozen=True)
class Layer:
    """One block: attention and MLP, each inside a residual sum; in a decoder that reads an encoder's result a second
    attention between them."""

    attn: Part
    mlp: Part
    norm: Part
    norms: frozenset[str]  # subset of NORM_PLACES
    dropout: float = 0.0  # on each sublayer's output, before the residual sum
    dropout_places: frozenset[str] = frozenset({"attn_out", "cross_out", "mlp_out"})  # sublayers
    parallel: bool = False  # the MLP reads what attention reads (by way of `attn_in` where there is no `mlp_in`)
    residual_multiplier: float = 1.0  # factor of each sublayer's output
    num_repeats: int = 1  # how often the layer runs in a row, with the same weights
    cross: Part | None = None  # attention to the encoder's result; idle where there is none
    beside: Part | None = None  # reads what the layer reads, and is added to what the layer gives


@dataclass(frozen=True)
class Spec:
    """A whole backbone."""

    width: int
    embed: InputPart
    layers: tuple[Layer, ...]
    final_norm: Part | None  # behind the layers
    max_positions: int | None  # rows of a learned position table; None: no limit but memory
    init_std: float  # standard deviation of newly initialised kernels and embeddings
    pool_token: str = "first"  # the token that classification heads read: "first" or "last" of each text
    dropout: float | None = None  # on the result; None: there is none, whatever a run's rate
    encoder: "Spec | None" = None  # whose result this one's layers read; or, if none has `cross`, its head alone
    output_width: int | None = None  # width of the hidden states that the head reads; None: `width`
    router_aux_coef: float = 0.0  # factor of the load balancing loss (model.py)
    decoder_start: int | str | None = (
        None  # the token that stands before a decoder's text; "last": the text's own last one
    )
    end: int | None = None  # the token by which transformers finds a text's end; None: config.json's eos_token_id

    @property
    def input_side(self) -> "Spec":
        """The side that reads what the model is given: the encoder where there is one."""
        return self.encoder or self

    @property
    def is_dual_encoder(self) -> bool:
        """Whether there are two backbones that only the head brings together: one of texts, and `encoder`."""
        return self.encoder is not None and not any(layer.cross for layer in self.layers)
