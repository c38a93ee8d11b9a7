"""What a family's file fills the slots of a `Spec` with (models/spec.py)."""

from typing import Any, ClassVar, Protocol


class Part(Protocol):
    """A frozen, hashable dataclass that builds its module for a model width."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, width: int) -> Any: ...


class NormPart(Part, Protocol):
    """A norm over the last axis of (..., width), or with `heads` of (..., heads, width) with a scale for each head."""

    def build(self, width: int, heads: int | None = None) -> Any: ...


class InputPart(Part, Protocol):
    """What turns a batch's inputs into vectors: an embedding of tokens, or what stands in its place."""

    @property
    def vocab(self) -> int:
        """Number of token ids; 0 if the input is not tokens."""

    @property
    def types(self) -> int | None:
        """Number of token type ids."""

    @property
    def shared_embedding(self) -> bool:
        """Whether the token embedding is the other backbone's."""

    @property
    def key(self) -> str:
        """The input's key in a batch (models/batch.py)."""

    @property
    def argument(self) -> str:
        """The input's name in transformers' models: "input_ids", "pixel_values", "input_features"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input that is not tokens; () for tokens."""

    @property
    def length(self) -> int | None:
        """How many vectors one input gives; None: one per token."""
